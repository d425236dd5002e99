"""This package is the manager, which finds a node's objects and sees each to its new place."""
