"""A Moray shard of the region: the methods that the rebalancer uses, with the real quirks."""
