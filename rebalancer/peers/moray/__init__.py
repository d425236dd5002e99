"""Moray, the metadata service, and Fast, the protocol it speaks."""
