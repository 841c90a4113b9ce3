"""`plan`: for every queued step run of a snapshot, an agent or the reason why not. Pure, total, deterministic."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from arcentra_server.domain.labels import LabelSet
from arcentra_server.scheduling.pools import Pool, Pools
from arcentra_server.scheduling.reasons import WaitReason


class Takes(StrEnum):
    """What an agent that can be reached is given."""

    ALL = "all"
    BOUND = "bound"
    """Only the next steps of jobs whose workspace it holds: it is drained, or draining."""
    NOTHING = "nothing"
    """It is not approved, or disabled."""


@dataclass(frozen=True, slots=True)
class AgentSlots:
    """An agent, its labels in force, and how many more step runs it has room for now."""

    id: UUID
    labels: LabelSet
    free: int
    takes: Takes = Takes.ALL
    online: bool = True


@dataclass(frozen=True, slots=True)
class QueuedStep:
    """A step run in the queue.

    `agent_id`: the only agent that may take it, because it has the job's workspace. `held`: its run is paused.
    `ready_at`: when it may be placed, in the seconds of `plan`'s `now`.
    """

    step_run_id: UUID
    selector_id: int
    agent_id: UUID | None = None
    held: bool = False
    ready_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is to place, the most urgent first, and the agents. `pools` must know the selectors of the queue."""

    queue: Sequence[QueuedStep]
    agents: Sequence[AgentSlots]
    pools: Pools


@dataclass(frozen=True, slots=True)
class Plan:
    """What to lease to whom, as (step run, agent), and what is left over.

    `rest`: what is not placed, in the order of the queue. `room`: free slots of agents that would take any step run.
    """

    assignments: tuple[tuple[UUID, UUID], ...]
    rest: Sequence[QueuedStep]
    room: int
    snapshot: Snapshot
    now: float

    def waiting(self) -> dict[UUID, WaitReason]:
        """Return for every step run of `rest` why it waits: worked out only for who asks."""
        reasons = _Reasons(self.snapshot, self.now)
        return {step.step_run_id: reasons.of(step) for step in self.rest}


def plan(snapshot: Snapshot, now: float) -> Plan:
    """Place a queue, in its order, each step run on the agent with the most free slots of those that may take it.

    How many each agent gets is settled by that. Which of them, where the agents are as good as one another: those that are
    next to each other in the queue, and so mostly of one run, go to one agent, so that its reports concern few runs.

    Args:
        snapshot: The queue, as SQL orders it: priority, then fair share, then age. No step run or agent occurs twice.
        now: Seconds, of the clock of `QueuedStep.ready_at`.
    """
    slots = _Slots(snapshot)
    assignments: list[tuple[UUID, UUID]] = []
    rest: list[QueuedStep] = []
    for step in snapshot.queue:
        if step.held or step.ready_at > now:
            chosen = None
        elif step.agent_id is not None:
            chosen = slots.take(step.agent_id)
        else:
            chosen = slots.take_freest(step.selector_id, len(assignments)) if slots.room else None
        if chosen is None:
            rest.append(step)
        else:
            assignments.append((step.step_run_id, chosen))
    for places in slots.interchangeable():
        _keep_together(assignments, places)
    return Plan(tuple(assignments), rest, slots.room, snapshot, now)


def _keep_together(assignments: list[tuple[UUID, UUID]], places: Sequence[int]) -> None:
    """Give what stands at these places to the agents that have it, as much to each as it has, agent by agent."""
    counts = Counter(assignments[place][1] for place in places)
    for place, agent_id in zip(places, counts.elements(), strict=True):
        assignments[place] = (assignments[place][0], agent_id)


class _Slots:
    """The free slots while a plan is made. `room`: those of agents that take any step run."""

    def __init__(self, snapshot: Snapshot) -> None:
        usable = [
            agent for agent in snapshot.agents if agent.online and agent.free > 0 and agent.takes != Takes.NOTHING
        ]
        self._free = {agent.id: agent.free for agent in usable}
        self._open = {agent.id for agent in usable if agent.takes == Takes.ALL}
        self._members: dict[Pool, list[tuple[int, UUID]]] = {}
        for position, agent in enumerate(usable):
            if agent.takes == Takes.ALL:
                self._members.setdefault(snapshot.pools.of(agent.labels), []).append((position, agent.id))
        self._heaps: dict[tuple[Pool, ...], list[tuple[int, int, UUID]]] = {}
        self._heap_of: dict[int, list[tuple[int, int, UUID]]] = {}
        self._placed: dict[int, list[int]] = {}  # places in the plan by the heap, whose agents admit the same selectors
        self.room = sum(self._free[agent_id] for agent_id in self._open)

    def take(self, agent_id: UUID) -> UUID | None:
        """Take a slot of this agent, if it has one."""
        free = self._free.get(agent_id, 0)
        if not free:
            return None
        self._free[agent_id] = free - 1
        self.room -= agent_id in self._open
        return agent_id

    def interchangeable(self) -> Collection[Sequence[int]]:
        """Return the places in the plan of those step runs that could change their agents with one another."""
        return self._placed.values()

    def take_freest(self, selector_id: int, place: int) -> UUID | None:
        """Take a slot, for this place in the plan, of the agent with the most that the selector admits; the first of several."""
        heap = self._heap_of.get(selector_id)
        if heap is None:
            heap = self._heap_of[selector_id] = self._heap(selector_id)
        while heap:
            negative, position, agent_id = heap[0]
            free = self._free[agent_id]
            if free == -negative:
                self.room -= 1
                self._free[agent_id] = free - 1
                _put_right(heap, free - 1, position, agent_id)
                self._placed.setdefault(id(heap), []).append(place)
                return agent_id
            # Another heap, or a bound step run, took of it meanwhile.
            _put_right(heap, free, position, agent_id)
        return None

    def _heap(self, selector_id: int) -> list[tuple[int, int, UUID]]:
        """Return the agents that a selector admits, the freest first; shared by selectors that admit the same ones."""
        pools = tuple(pool for pool in self._members if selector_id in pool.selectors)
        if pools not in self._heaps:
            members = [member for pool in pools for member in self._members[pool]]
            heap = [(-self._free[one], position, one) for position, one in members if self._free[one]]
            heapq.heapify(heap)
            self._heaps[pools] = heap
        return self._heaps[pools]


def _put_right(heap: list[tuple[int, int, UUID]], free: int, position: int, agent_id: UUID) -> None:
    if free:
        heapq.heapreplace(heap, (-free, position, agent_id))
    else:
        heapq.heappop(heap)


class _Reasons:
    """Why step runs wait that a plan has not placed."""

    def __init__(self, snapshot: Snapshot, now: float) -> None:
        self._agents: Mapping[UUID, AgentSlots] = {agent.id: agent for agent in snapshot.agents}
        self._pools = snapshot.pools
        self._now = now
        self._of_selector: dict[int, WaitReason] = {}

    def of(self, step: QueuedStep) -> WaitReason:
        if step.held:
            return WaitReason.PAUSED
        if step.ready_at > self._now:
            return WaitReason.RETRY_DELAY
        if step.agent_id is not None:
            return self._bound(step.agent_id)
        if step.selector_id not in self._of_selector:
            self._of_selector[step.selector_id] = self._free(step.selector_id)
        return self._of_selector[step.selector_id]

    def _bound(self, agent_id: UUID) -> WaitReason:
        agent = self._agents.get(agent_id)
        if agent is None or not agent.online:
            return WaitReason.AGENT_AWAY
        return WaitReason.AGENT_UNAVAILABLE if agent.takes == Takes.NOTHING else WaitReason.AGENT_FULL

    def _free(self, selector_id: int) -> WaitReason:
        selector = self._pools.selector(selector_id)
        if selector is None or not any(selector.matches(agent.labels.values) for agent in self._agents.values()):
            return WaitReason.NO_MATCHING_AGENT
        admitted = [agent for agent in self._agents.values() if agent.labels.admit(selector)]
        if not admitted:
            return WaitReason.RESERVED
        if not any(agent.online for agent in admitted):
            return WaitReason.AGENTS_OFFLINE
        if not any(agent.online and agent.takes == Takes.ALL for agent in admitted):
            return WaitReason.AGENTS_UNAVAILABLE
        return WaitReason.AGENTS_FULL
