"""This package answers questions about storage nodes as they are now, without a job."""
