"""This package checks, at a start or for an operator, that a machine can run a program of ours.

A check is a declaration in `checks`: `look` has what touches the machine and the network, `judge`
the pure functions that make findings of what was seen.  Nothing here imports trio but
`look.region`, which a Python without an event loop never comes to.
"""
