"""Background loops, each a `run_once` under one supervisor."""
