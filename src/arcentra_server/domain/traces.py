"""Errors without their tracebacks: what they were raised through, with all its variables, ends with the call."""

from __future__ import annotations


def forget_traces(error: BaseException) -> None:
    """Take the tracebacks from an error, and from all that it came of or is a group of.

    A frame that has in a variable the error that was raised through it, as those of a `TaskGroup` have, is in a cycle with
    it. The frames are let go and not cleared: to clear that of a task that goes on, for a failed batch is told to all who
    wait for it, would end the task.
    """
    seen: set[int] = set()
    left = [error]
    while left:
        error = left.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        error.__traceback__ = None
        left += [linked for linked in (error.__cause__, error.__context__) if linked is not None]
        if isinstance(error, BaseExceptionGroup):
            left += error.exceptions
