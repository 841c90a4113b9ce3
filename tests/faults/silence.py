"""How long agents are not heard of, by the clock of the database: what may cost them their steps, and what may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from tests.faults.field import Field

_LAST = "SELECT min(last_contact_at) FROM agents WHERE name LIKE $1"
_BACK = "SELECT max(last_contact_at) FROM agents WHERE name LIKE $1 HAVING min(last_contact_at) > $2"
_LOST = "SELECT count(*) FROM step_runs WHERE failure_reason = 'agent_lost'"


@dataclass(frozen=True, slots=True)
class Silence:
    """A time in which agents whose names begin so are not heard of."""

    field: Field
    agents: str
    since: datetime
    lost: int

    @classmethod
    async def of(cls, field: Field, agents: str) -> Self:
        """Note when the first of them was last heard of."""
        since = await field.value(_LAST, agents + "-%")
        assert isinstance(since, datetime)
        return cls(field, agents, since, await _lost(field))

    async def costs_steps(self) -> None:
        """Wait until somebody is taken for lost."""

        async def lost() -> bool:
            return await _lost(self.field) > self.lost

        await self.field.until(lost)

    async def end(self, heal: Callable[[], None]) -> None:
        """Let them speak again, and wait until all have. Nobody may have lost steps in less than a lease time.

        The time is measured: on a slow machine it may be longer than it was meant to be, and then cost steps.
        """
        healed = await self.field.value("SELECT clock_timestamp()")
        heal()
        until = await self.field.until(lambda: self.field.value(_BACK, self.agents + "-%", healed))
        seconds = (until - self.since).total_seconds()
        if seconds < self.field.lease:
            assert await _lost(self.field) == self.lost, f"agents were taken for lost after {seconds} s at most"


async def _lost(field: Field) -> int:
    return int(str(await field.value(_LOST)))
