"""This package judges what the checks of a machine have seen.  Pure."""
