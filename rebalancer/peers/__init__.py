"""This package talks to other services, by one module each."""
