"""The Manta rebalancer: moves every object off a storage node without losing one."""

__version__ = "1.0.0"
