"""The bell of the scheduler: rung after commits that may let something be placed. A lost ring costs a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

STALE_SECONDS = 0.9  # how old the knowledge of work may be that other servers stored


class WorkBell:
    """See the module.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rung = asyncio.Event()
        self._new_work = True
        self._looked_at = clock()

    def ring(self) -> None:
        """Slots became free, or steps of known runs were queued."""
        self._rung.set()

    def ring_for_new_work(self) -> None:
        """Something was stored that the scheduler does not know at all: a run, an agent, labels."""
        self._new_work = True
        self._rung.set()

    async def wait(self) -> None:
        """Return when it was rung since the last `answer`."""
        await self._rung.wait()

    def answer(self) -> None:
        """Begin a pass: what is rung from here on is for the next one."""
        self._rung.clear()

    @property
    def new_work_is_due(self) -> bool:
        """Whether there may be what is not known yet: after new work, else once a second."""
        return self._new_work or self._clock() - self._looked_at >= STALE_SECONDS

    def look_for_new_work(self) -> bool:
        """Answer whether it is due; if so, whoever asked has to look for it now."""
        look = self.new_work_is_due
        if look:
            self._new_work, self._looked_at = False, self._clock()
        return look
