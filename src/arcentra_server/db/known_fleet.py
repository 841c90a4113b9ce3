"""The agents, as the warnings of a run that starts see them: looked at once a second, however many runs start."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from arcentra_server.db import agents
from arcentra_server.db.engine import Tx
from arcentra_server.domain.definition import PipelineSpec
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.fleet import AgentLabels, asks_for_labels, fleet_warnings

KNOWN_SECONDS = 1.0  # how long an agent that left may still be taken for one that can serve


class KnownFleet:
    """See the module. A warning is only given by agents as they are now: one that came cannot be missed.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When it was looked, and what was found: all agents, and one of them for those who ask for no labels.
        self._known: dict[bool, tuple[float, Sequence[AgentLabels]]] = {}

    async def warnings(self, tx: Tx, spec: PipelineSpec) -> list[Fault]:
        """Return a warning for every job and step that no agent can serve, see `fleet_warnings`."""
        all_of_them = asks_for_labels(spec)
        looked_at, fleet = self._known.get(all_of_them, (-KNOWN_SECONDS, ()))
        now = self._clock()
        if now - looked_at < KNOWN_SECONDS and not fleet_warnings(spec, fleet):
            return []
        fleet = await agents.labels_of_all(tx, most=None if all_of_them else 1)
        self._known[all_of_them] = now, fleet
        return fleet_warnings(spec, fleet)
