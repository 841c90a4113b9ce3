"""The commands and their options, one module a group. What they do is in `actions`."""
