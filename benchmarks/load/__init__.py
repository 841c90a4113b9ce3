"""Load generators: fake agents and callers over the real protocol, each run in a process of its own."""
