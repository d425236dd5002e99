"""This package is a Moray shard: the methods that the rebalancer uses, with the real quirks."""
