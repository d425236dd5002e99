"""The kinds of jobs a manager can run."""
