"""This package has the kinds of jobs that a manager can run, each behind the same members.

`rebalancer.actions` says how another kind of job is added.
"""
