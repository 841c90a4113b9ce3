"""Use cases: each public method is one short transaction."""
