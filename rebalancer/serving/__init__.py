"""HTTP/1.1 for the daemons' applications: nothing that a client sends ends or freezes a process."""
