"""The process that a step runs under: it outlives the agent that started it, and keeps on disk what became of the step.

A step host knows neither the server nor gRPC. The agent gives it an order through a pipe, speaks to it through a named
pipe and reads the rest from files, so the next process of the agent can go on where this one ended.
"""
