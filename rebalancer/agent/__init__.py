"""This package is the agent, which pulls objects onto the storage node it runs on."""
