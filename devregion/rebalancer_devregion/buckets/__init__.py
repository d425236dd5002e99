"""This package is an embedded buckets-mdapi, held to recordings of the real one."""
