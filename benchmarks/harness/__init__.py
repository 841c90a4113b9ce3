"""The harness: starts subjects and loads, measures them, checks what they did, and writes the results."""
