"""This package is the manager's HTTP API: its routes, and the bodies that they take and answer."""
