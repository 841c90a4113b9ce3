"""A database that hangs: its processes are stopped, and what is sent to it waits, as behind a network that is gone."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import psutil

# Seconds until a database answers again, should somebody wait for it. Who does not has long ended.
LONGEST = 20.0


class Freezer:
    """Stops a server of PostgreSQL, all of it, until the end of the context. `frozen` is set while it is stopped."""

    def __init__(self, postmaster: int) -> None:
        self._postmaster = psutil.Process(postmaster)
        self._stopped: list[psutil.Process] = []
        self._end: asyncio.TimerHandle | None = None
        self.frozen = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thaw()

    def freeze(self) -> None:
        """Stop it: the postmaster first, which therefore has no more children."""
        self._postmaster.suspend()
        self._stopped = [self._postmaster]
        for child in self._postmaster.children():
            child.suspend()
            self._stopped.append(child)
        self._end = asyncio.get_running_loop().call_later(LONGEST, self.thaw)
        self.frozen.set()

    def thaw(self) -> None:
        """Let it go on."""
        self.frozen.clear()
        if self._end is not None:
            self._end.cancel()
        for process in reversed(self._stopped):
            process.resume()
        self._stopped = []
