"""This package does the work of one running job, from its first object to its last."""
