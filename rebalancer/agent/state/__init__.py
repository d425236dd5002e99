"""This package keeps the assignments of an agent: posted ones, stored ones, and their order."""
