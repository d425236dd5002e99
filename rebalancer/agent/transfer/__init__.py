"""This package is the data plane: it pulls objects in processes of their own, onto the disk."""
