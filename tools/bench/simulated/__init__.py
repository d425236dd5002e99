"""This package is a large region in one process: nodes copy nothing, shards store nothing."""
