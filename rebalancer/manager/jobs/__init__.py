"""This package has the jobs of a manager: what may be asked of them, and which of them runs."""
