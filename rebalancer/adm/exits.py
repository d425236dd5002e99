"""This module has the exit codes of the operator's command, which `adm --help` lists."""

#: The command has done what it was asked; of a job that is watched, nothing is left to do.
DONE = 0
#: The manager refused, is not there, or the job failed.
REFUSED = 1
#: Records still name the node.
NOT_EMPTY = 3
#: Whether the node is empty is not known, because not all of it was looked at.
UNKNOWN = 4
