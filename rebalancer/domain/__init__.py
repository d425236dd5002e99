"""This package decides by pure functions: no clock, no socket, no file, no trio."""
