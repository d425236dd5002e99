"""The agent: pulls objects onto the storage node it runs on."""
