"""This package is a Manta region small enough for one machine, to rehearse and to test on."""

__version__ = "1.0.0"
