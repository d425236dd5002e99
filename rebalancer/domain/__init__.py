"""Decisions as pure functions: no clock, no socket, no file, no trio."""
