"""The agents, as the warnings of runs that start see them: looked at once a second, or when something changed here.

Who comes together shares one look, and what it costs to hold a definition against thousands of agents.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from arcentra_server.db import agents
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.domain.definition import PipelineSpec
from arcentra_server.domain.definition_checks import total_steps
from arcentra_server.domain.errors import ArcentraError, Fault, Unavailable
from arcentra_server.domain.fleet import AgentLabels, asks_for_labels, fleet_warnings, unserved_selectors
from arcentra_server.domain.selectors import Selector

# How long an agent that left may still be taken for one that can serve, and a run may be warned without one that came
# through another server.
KNOWN_SECONDS = 1.0
# So often a selector is held against an agent before a thread does it: about 3 ms. Most runs need less, as one of the
# first agents serves each of their jobs, and do not wait for a thread.
LOOKS_AT_ONCE = 2_000


@dataclass(slots=True, eq=False)
class _Look:
    """What was found when it was looked.

    Args:
        began: Seconds, of the clock.
        ended: The same.
        announced: `ExecutionStore.announced` when it began.
        fleet: The agents.
        failure: Why they could not be looked at, empty where they could.
        answered: The definition that was held against them last, and its warnings: most come of one that is triggered
            again and again.
    """

    began: float
    ended: float
    announced: int
    fleet: Sequence[AgentLabels]
    failure: str = ""
    answered: tuple[PipelineSpec, list[Fault]] | None = None

    def is_good_for(self, asked_at: float, announced: int) -> bool:
        """Answer whether a run that asks may be warned by it: it would see the same, as far as is known here."""
        if self.failure:
            return asked_at <= self.ended  # who waited for it fails with it
        return self.announced >= announced and asked_at - self.began < KNOWN_SECONDS

    def known_warnings(self, spec: PipelineSpec) -> list[Fault] | None:
        return self.answered[1] if self.answered is not None and self.answered[0] is spec else None

    async def warnings(self, spec: PipelineSpec, unserved: AbstractSet[Selector] | None) -> list[Fault]:
        """Return the warnings of a definition; `unserved`: its selectors that nobody serves, None where not known."""
        if (known := self.known_warnings(spec)) is not None:
            return known
        if unserved is None:
            unserved = await _unserved(spec, self.fleet)
        warnings: list[Fault] = []
        if not self.fleet or unserved:
            if len(unserved) * len(self.fleet) + total_steps(spec) > LOOKS_AT_ONCE:
                warnings = await asyncio.to_thread(fleet_warnings, spec, self.fleet, unserved)
            else:
                warnings = fleet_warnings(spec, self.fleet, unserved)
        self.answered = spec, warnings
        return warnings


class KnownFleet:
    """See the module. An agent that came, or changed, through this server is never missed by a warning.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Of all agents, and of one of them for those who ask for no labels.
        self._looks: dict[bool, _Look] = {}
        self._turns: defaultdict[bool, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def warnings(self, store: ExecutionStore, spec: PipelineSpec) -> list[Fault]:
        """Return a warning for every job and step that no agent can serve, see `fleet_warnings`.

        For the time after the commit of a run, of which it keeps nothing waiting: it may look at the database, and at
        thousands of agents.

        Raises:
            Unavailable: the database is away.
        """
        all_of_them = asks_for_labels(spec)
        asked_at, announced = self._clock(), store.announced
        before, unserved = self._looks.get(all_of_them), None
        if before is not None and before.fleet and asked_at - before.began < KNOWN_SECONDS:
            known = before.known_warnings(spec)
            if known and before.is_good_for(asked_at, announced):
                return known
            if known is None:
                unserved = await _unserved(spec, before.fleet)
            if not known and not unserved:
                return []  # what could be served a moment ago waits for no look of others
        async with self._turns[all_of_them]:
            look = self._looks.get(all_of_them)
            if look is None or not look.is_good_for(asked_at, announced):
                look = await self._look(store, all_of_them=all_of_them)
            if look.failure:
                raise Unavailable(look.failure)
            return await look.warnings(spec, unserved if look is before else None)

    async def _look(self, store: ExecutionStore, *, all_of_them: bool) -> _Look:
        began, announced = self._clock(), store.announced
        fleet, failure = [], ""
        try:
            async with store.database.statements() as tx:
                fleet = await agents.labels_of_all(tx, most=None if all_of_them else 1)
        except ArcentraError as error:
            failure = str(error) or "the agents cannot be looked at"
        look = self._looks[all_of_them] = _Look(began, self._clock(), announced, fleet, failure)
        return look


async def _unserved(spec: PipelineSpec, fleet: Sequence[AgentLabels]) -> AbstractSet[Selector]:
    found = unserved_selectors(spec, fleet, LOOKS_AT_ONCE)
    if found is None:
        found = await asyncio.to_thread(unserved_selectors, spec, fleet)
    return found or set()
