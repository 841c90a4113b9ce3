"""Simulated agents: they speak the protocol of real ones, run nothing, and write down what they did.

`python -m tests.support.simagent --server HOST:PORT --agents N --journal DIR ...` runs many in one process, so that all of
them can be killed, stopped or cut off at once. Each keeps its credential and its journal in the folder, and is the same
agent when the program is started again on it. The journal (`journal.py`) is the truth that a checker compares with the
database: what was started when, on whose word, and how it ended.
"""
