"""Benchmarks: the real server beside programs that show what the machine allows."""
