"""This package keeps a job in its sqlite file: a module for each kind of rows, and the schema.

Functions of rows take the connection first.  Functions that change states return the changes
of the counts, or add them to a tally, so that counts and rows change together.
"""
