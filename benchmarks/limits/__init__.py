"""Limit programs: the same transport, durability and agents as the server, and none of its rules."""
