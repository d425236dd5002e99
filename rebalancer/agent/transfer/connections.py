"""This module bounds the connections of a process, and finds out if it lacks files for one."""

import errno
import os
import resource

#: Connections at a time, in use and kept, if the process may have many files.
MOST = 512
#: Files that a process needs for itself, and those that go with a connection: the socket, the
#: file that it fills, and what a look-up of its name opens.
OWN_FILES, FILES_EACH = 48, 3


def most_connections() -> int:
    """Return how many connections this process may have, by its limit of files."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return MOST
    return max(2, min(MOST, (limit - OWN_FILES) // FILES_EACH))


def is_short_of_files() -> bool:
    """Return whether the process, or the machine, cannot open one more file now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as exc:
        return exc.errno in (errno.EMFILE, errno.ENFILE)
    return False
