"""This package is the action `evacuate`: every object with a copy on one node gets it elsewhere."""
