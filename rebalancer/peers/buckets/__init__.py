"""This package speaks with a shard of the buckets tier: by its database, or by buckets-mdapi."""
