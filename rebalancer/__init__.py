"""The Manta rebalancer: moves every object off a storage node without losing one."""

__version__ = "0.1.0"
