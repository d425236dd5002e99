"""This package speaks with Moray, the metadata service, in its protocol Fast."""
