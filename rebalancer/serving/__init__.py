"""The daemons serve HTTP/1.1 by this: nothing that a client sends ends or freezes a process."""
