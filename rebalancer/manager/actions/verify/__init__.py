"""This package is the action `verify`: it compares copies with records, and lists the faults."""
