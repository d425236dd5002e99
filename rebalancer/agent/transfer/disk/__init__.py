"""This package puts objects onto the node's disk, and brings files to stable storage."""
