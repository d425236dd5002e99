"""A large region in one process: storage nodes that copy nothing, and shards that store nothing."""
