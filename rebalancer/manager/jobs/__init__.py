"""This package has the jobs of a manager: the list, the events and the work of each."""
