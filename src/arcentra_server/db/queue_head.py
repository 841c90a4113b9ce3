"""The head of the queue: what is most urgent of what the agents with room could take.

Nothing is locked to read it, so what it says is a hint: the claim takes what is still there. What a pass leaves over is
kept for the next one, until something is queued or a pass finds no more in it: a long queue is not read again and again.

The step runs of one selector are a class. Few classes are read one by one. Of many, most are empty, or wait in one long
queue: its front is read first, and the classes only where others stand before them in great numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.scheduling.plan import AgentSlots, Plan, QueuedStep, Snapshot, Takes, plan
from arcentra_server.scheduling.pools import Pool, Pools

MOST_READ = 1_000  # free step runs that are read ahead
MOST_BOUND = 10_000
FEW_CLASSES = 32
LEAST_OF_A_CLASS = 8
LEAST_OF_THE_FRONT = 500
MOST_TRIES = 3
GROWTH = 8

# In all of them first what is bound to one of the agents; the row without a step run says how long the front was.
_BOUND = """
    SELECT step_run_id, selector_id, agent_id
      FROM (SELECT step_run_id, selector_id, agent_id FROM step_queue
             WHERE agent_id = ANY($1) AND NOT held AND ready_at <= clock_timestamp()
             ORDER BY priority DESC, share, run_id, step_run_id LIMIT $2) bound
     UNION ALL
"""
_FRONT = f"""
    WITH front AS MATERIALIZED (
        SELECT step_run_id, selector_id, ready_at, priority, share, run_id FROM step_queue
         WHERE agent_id IS NULL AND NOT held ORDER BY priority DESC, share, run_id, step_run_id LIMIT $4)
    {_BOUND}
    SELECT step_run_id, selector_id, NULL
      FROM (SELECT step_run_id, selector_id FROM front
             WHERE selector_id = ANY($3) AND ready_at <= clock_timestamp()
             ORDER BY priority DESC, share, run_id, step_run_id) free
     UNION ALL
    SELECT NULL, count(*)::int, NULL FROM front
"""
_CLASSES = f"""
    {_BOUND}
    SELECT step_run_id, selector_id, NULL
      FROM (SELECT q.step_run_id, q.selector_id
              FROM unnest($3::int[], $4::int[]) AS c(selector_id, most)
             CROSS JOIN LATERAL (
                   SELECT step_run_id, selector_id, priority, share, run_id FROM step_queue
                    WHERE selector_id = c.selector_id AND agent_id IS NULL AND NOT held
                      AND ready_at <= clock_timestamp()
                    ORDER BY priority DESC, share, run_id, step_run_id
                    LIMIT c.most) q
             ORDER BY q.priority DESC, q.share, q.run_id, q.step_run_id LIMIT $5) free
"""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What was read, in order.

    `sure`: how many of `free` have nothing unread between them; `usable`: the same, but for what finds no room. `whole`:
    there is nothing else that would find room. `all`: there is nothing else at all that these agents would take.
    """

    bound: list[QueuedStep]
    free: list[QueuedStep]
    sure: int
    usable: int
    whole: bool
    all: bool


class QueueHead:
    """See the module. One pass at a time may use it."""

    def __init__(self) -> None:
        self._rows: Sequence[QueuedStep] = ()
        self._agents: frozenset[UUID] = frozenset()
        self._pools: frozenset[Pool] = frozenset()
        self._ahead = 0
        self._is_all = False
        self._contested: frozenset[UUID] = frozenset()

    def forget(self, contested: Collection[UUID] = ()) -> None:
        """Read anew next time, as something was queued, or as some step runs could not be claimed.

        `contested`: these. Another server has them, perhaps not for good: they are passed over once.
        """
        self._rows, self._ahead, self._is_all = (), 0, False
        self._contested = frozenset(contested)

    def add(self, steps: Sequence[QueuedStep]) -> None:
        """Take note of what was queued just now, the most urgent first, and is bound to no agent.

        Where nothing else is known to wait, it is all that there is. Else it is read, in its place among the others.
        """
        if self._is_all and not self._rows and len(steps) <= MOST_READ:
            self._rows = steps
        else:
            self.forget()

    async def plan(
        self, tx: Tx, agents: Sequence[AgentSlots], reachable: Collection[UUID], pools: Pools, *, anew: bool = True
    ) -> Plan:
        """Return the plan for what is in the queue now.

        Args:
            tx: The transaction.
            agents: The agents that have room.
            reachable: All agents that can be reached, those that are full too.
            pools: All selectors that are known.
            anew: Read on where what was read leaves room, even if the last reading found nothing else: what was held,
                or not ready yet, may be so no more.
        """
        present = {pools.of(agent.labels) for agent in agents if agent.takes == Takes.ALL}
        all_known = self._is_all and not anew
        if (self._rows or all_known) and present <= self._pools and self._agents.issuperset(reachable):
            planned = plan(Snapshot(self._rows, agents, pools), 0.0)
            if all_known or not planned.room:
                self._rows = planned.rest
                return planned
        # Nothing was queued since the last reading, and it was used up: the longer this goes on, the more is read.
        self._ahead = min(2 * self._ahead, MOST_READ)
        self._agents, self._pools = frozenset(reachable), frozenset(present)
        return await self._read(tx, agents, pools)

    async def _read(self, tx: Tx, agents: Sequence[AgentSlots], pools: Pools) -> Plan:
        rooms = _rooms(agents, pools)
        room = sum(agent.free for agent in agents if agent.takes == Takes.ALL)
        wanted = min(max(room, self._ahead), MOST_READ) + len(self._contested)
        for attempt in range(MOST_TRIES):
            if attempt == 0 and len(rooms) > FEW_CLASSES:
                reading = await self._read_front(tx, rooms, 4 * wanted)
            else:
                reading = await self._read_classes(
                    tx, rooms, wanted * GROWTH**attempt, math.ceil(wanted / max(room, 1))
                )
            queue = reading.bound + reading.free[: reading.usable]
            planned = plan(
                Snapshot([step for step in queue if step.step_run_id not in self._contested], agents, pools), 0.0
            )
            if not planned.room or reading.whole or len(planned.assignments) >= MOST_READ:
                break
        unsure = {step.step_run_id for step in reading.free[reading.sure :]}
        self._rows = [step for step in planned.rest if step.step_run_id not in unsure]
        self._ahead = max(self._ahead, min(room, MOST_READ))
        self._is_all = reading.all and not self._contested
        self._contested = frozenset()
        return planned

    async def _read_front(self, tx: Tx, rooms: Mapping[int, int], length: int) -> _Reading:
        """Read the front of the whole queue, and of it what the agents may take."""
        length = max(length, LEAST_OF_THE_FRONT)
        *rows, last = await tx.fetch(_FRONT, list(self._agents), MOST_BOUND, list(rooms), length)
        bound, free = _steps(rows)
        is_all = last["selector_id"] < length and len(bound) < MOST_BOUND
        return _Reading(bound, free, len(free), len(free), last["selector_id"] < length, is_all)

    async def _read_classes(self, tx: Tx, rooms: Mapping[int, int], wanted: int, times: int) -> _Reading:
        """Read the head of each class: as much as its agents have room for, `times` over, but not much more than `wanted` in all."""
        largest = max(LEAST_OF_A_CLASS, math.ceil(2 * wanted / max(len(rooms), 1)))
        contested = len(self._contested)
        limits = {selector: min(times * free + contested, largest) for selector, free in rooms.items()}
        rows = await tx.fetch(_CLASSES, list(self._agents), MOST_BOUND, list(limits), list(limits.values()), 2 * wanted)
        bound, free = _steps(rows)
        short = {selector: most for selector, most in limits.items() if most < rooms[selector]}
        gap = _first_gap(free, short)
        usable = len(free) if gap is None else gap
        sure = _first_gap(free, limits)
        short_of_limit = len(free) < 2 * wanted
        is_all = sure is None and short_of_limit and len(bound) < MOST_BOUND
        return _Reading(bound, free, usable if sure is None else sure, usable, gap is None and short_of_limit, is_all)


def _rooms(agents: Sequence[AgentSlots], pools: Pools) -> Counter[int]:
    """Return for each selector how many step runs the agents that it admits have room for."""
    of_pools: Counter[Pool] = Counter()
    for agent in agents:
        if agent.takes == Takes.ALL:
            of_pools[pools.of(agent.labels)] += agent.free
    rooms: Counter[int] = Counter()
    for pool, free in of_pools.items():
        for selector in pool.selectors:
            rooms[selector] += free
    return rooms


def _first_gap(queue: Sequence[QueuedStep], limits: Mapping[int, int]) -> int | None:
    """Return after how many step runs some may be missing: where a class has reached its limit. None: nowhere."""
    seen: Counter[int] = Counter()
    for place, step in enumerate(queue, 1):
        seen[step.selector_id] += 1
        if seen[step.selector_id] >= limits.get(step.selector_id, math.inf):
            return place
    return None


def _steps(rows: Sequence[Row]) -> tuple[list[QueuedStep], list[QueuedStep]]:
    """Return what is bound and what is free."""
    steps = [QueuedStep(row["step_run_id"], row["selector_id"], row["agent_id"]) for row in rows]
    bound = sum(step.agent_id is not None for step in steps)
    return steps[:bound], steps[bound:]
