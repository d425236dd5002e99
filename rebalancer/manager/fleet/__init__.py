"""This package knows what storage nodes and shards can take, and holds the work of jobs to it."""
