"""Supervised loops: `run_once`, again and again, with a pause that grows while it fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

MOST_FAILURES = 30  # in a row, then the process ends: a supervisor of processes may know better
LONGEST_PAUSE = 15.0
_log = structlog.get_logger()


@dataclass(slots=True)
class Loop:
    """A background loop.

    Args:
        name: For logs and health.
        run_once: One pass. What it raises is logged, and the next pass comes later and later.
        interval: Seconds between passes, give or take a tenth.
        wait: Returns when a pass is wanted before the interval is over. A lost wake costs the interval, nothing else.
    """

    name: str
    run_once: Callable[[], Awaitable[object]]
    interval: float
    wait: Callable[[], Awaitable[object]] | None = None
    passes: int = 0
    failures: int = 0
    failed_in_a_row: int = field(default=0)

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            Exception: of the last pass, when too many failed in a row.
        """
        while True:
            try:
                await self.run_once()
            except Exception:
                self.failures += 1
                self.failed_in_a_row += 1
                _log.exception("loop_failed", loop=self.name, in_a_row=self.failed_in_a_row)
                if self.failed_in_a_row >= MOST_FAILURES:
                    raise
                await asyncio.sleep(min(LONGEST_PAUSE, 0.1 * 2**self.failed_in_a_row))
                continue
            self.passes += 1
            self.failed_in_a_row = 0
            await self._pause()

    async def _pause(self) -> None:
        seconds = self.interval * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, keeps no secret
        if self.wait is None:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self.wait()
        except TimeoutError:
            return
