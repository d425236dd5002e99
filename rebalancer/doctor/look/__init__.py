"""This package looks at the machine, the files and the network, and judges nothing."""
