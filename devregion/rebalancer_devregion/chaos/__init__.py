"""Nodes are evacuated under faults here: kills, cuts and full disks, decided by a seed."""
