"""Everything that reads bytes from outside, fed with bytes that nobody meant to send."""
