"""How long a transaction may evaluate expressions before everything else of the server gets its turn."""

from __future__ import annotations

import asyncio

from arcentra_server.domain.expressions import Meter

LONGEST_STRETCH = 10_000
"""Steps of evaluations, some ten milliseconds of them."""


class Pace:
    """Counts what a row of evaluations took. One alone costs little, but thousands can be due together."""

    def __init__(self) -> None:
        self._spent = 0

    async def note(self, meter: Meter) -> None:
        """Count what was charged to a meter; let others have their turn if that is a stretch by now."""
        self._spent += meter.spent
        if self._spent >= LONGEST_STRETCH:
            self._spent = 0
            await asyncio.sleep(0)
