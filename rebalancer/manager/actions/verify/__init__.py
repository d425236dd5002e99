"""This package is the action `verify`: it reads copies of objects, and lists what is not right."""
