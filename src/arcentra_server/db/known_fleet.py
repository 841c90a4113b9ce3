"""The agents, as the warnings of a run that starts see them: looked at once a second, and anew before a run is warned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from arcentra_server.db import agents
from arcentra_server.db.engine import Database
from arcentra_server.domain.definition import PipelineSpec
from arcentra_server.domain.definition_checks import total_steps
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.fleet import AgentLabels, asks_for_labels, fleet_warnings, unserved_selectors
from arcentra_server.domain.selectors import Selector

KNOWN_SECONDS = 1.0  # how long an agent that left may still be taken for one that can serve
# So often a selector is held against an agent before a thread does it: about 3 ms. Most runs need less, as one of the
# first agents serves each of their jobs, and do not wait for a thread.
LOOKS_AT_ONCE = 2_000


class KnownFleet:
    """See the module. A warning is only given by agents as they are now: one that came cannot be missed.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When it was looked, and what was found: all agents, and one of them for those who ask for no labels.
        self._known: dict[bool, tuple[float, Sequence[AgentLabels]]] = {}

    async def warnings(self, database: Database, spec: PipelineSpec) -> list[Fault]:
        """Return a warning for every job and step that no agent can serve, see `fleet_warnings`.

        For the time after the commit of a run, of which it keeps nothing waiting: it may look at the database, and at
        thousands of agents.

        Raises:
            Unavailable: the database is away.
        """
        all_of_them = asks_for_labels(spec)
        looked_at, fleet = self._known.get(all_of_them, (-KNOWN_SECONDS, ()))
        now = self._clock()
        unserved = None
        if fleet and now - looked_at < KNOWN_SECONDS:
            unserved = await _unserved(spec, fleet)
            if not unserved:
                return []
        async with database.statements() as tx:
            fleet = await agents.labels_of_all(tx, most=None if all_of_them else 1)
        self._known[all_of_them] = now, fleet
        if unserved is None:
            unserved = await _unserved(spec, fleet)
        if fleet and not unserved:
            return []
        if len(unserved) * len(fleet) + total_steps(spec) > LOOKS_AT_ONCE:
            return await asyncio.to_thread(fleet_warnings, spec, fleet, unserved)
        return fleet_warnings(spec, fleet, unserved)


async def _unserved(spec: PipelineSpec, fleet: Sequence[AgentLabels]) -> AbstractSet[Selector]:
    found = unserved_selectors(spec, fleet, LOOKS_AT_ONCE)
    if found is None:
        found = await asyncio.to_thread(unserved_selectors, spec, fleet)
    return found or set()
