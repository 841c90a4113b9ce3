"""Processes that die between two steps of what they do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from arcentra_server.db.engine import Database, Tx
from arcentra_server.db.run_starter import Started
from arcentra_server.db.triggered_runs import StartRun
from arcentra_server.domain.instantiate import Trigger


class Killed(BaseException):
    """Goes through everything, as the end of a process does."""


class Fuse:
    """Counts steps, and kills at one of them; `burnt` tells whether it came to that."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        self.burnt = False

    def step(self) -> None:
        if self._left == 0:
            self.burnt = True
            raise Killed
        self._left -= 1


class DyingDatabase(Database):
    """A database of a process that dies before or after a commit, or instead of it. It shares the pool of another."""

    def __init__(self, real: Database, fuse: Fuse) -> None:
        super().__init__("")
        self._real = real
        self._fuse = fuse

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False) -> AsyncIterator[Tx]:
        self._fuse.step()
        async with self._real.transaction(snapshot=snapshot) as tx:
            yield tx
            self._fuse.step()
        self._fuse.step()

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[Tx]:
        self._fuse.step()
        async with self._real.statements() as tx:
            yield tx
        self._fuse.step()


def dying_start(start: StartRun, fuse: Fuse) -> StartRun:
    """Start runs in a process that dies before or after it."""

    async def dying(pipeline_id: UUID, trigger: Trigger) -> Started:
        fuse.step()
        started = await start(pipeline_id, trigger)
        fuse.step()
        return started

    return dying
