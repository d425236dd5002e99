"""Evacuations under faults: schedules of kills, cuts and full disks, each decided by its seed."""
