"""This package holds the work of jobs to what storage nodes and shards can take."""
