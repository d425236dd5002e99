"""The manager: finds the objects of a storage node and sees each to its new place."""
