"""This package has the kinds of jobs that a manager can run, each behind the same members.

CONTRIBUTING.md says how an action is added.
"""
