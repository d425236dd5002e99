"""What the methods of `JobStore` do within their transactions, by the rows they are about.

Every function takes the connection first.  Those that change states return the changes of the
counters, or add them to a tally, so that counters and rows change together.
"""
