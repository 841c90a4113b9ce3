"""`plan`: for every queued step run of a snapshot, an agent or the reason why not. Pure, total, deterministic."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from arcentra_server.domain.selectors import Selector


class WaitReason(StrEnum):
    """Why a queued step run is not placed."""

    NO_MATCHING_AGENT = "no_matching_agent"
    AGENTS_FULL = "agents_full"
    AGENT_AWAY = "agent_away"


@dataclass(frozen=True, slots=True)
class AgentSlots:
    """An agent that can be reached, its labels in force, and how many more step runs it takes now."""

    id: UUID
    labels: Mapping[str, str]
    free: int


@dataclass(frozen=True, slots=True)
class QueuedStep:
    """A step run in the queue. `agent_id`: the only agent that may take it, because it has the job's workspace."""

    step_run_id: UUID
    selector_id: int
    agent_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to lease to whom, and why the rest waits."""

    assignments: tuple[tuple[UUID, UUID], ...]
    waiting: Mapping[UUID, WaitReason]


def matching(selectors: Mapping[int, Selector], agents: Sequence[AgentSlots]) -> dict[int, tuple[UUID, ...]]:
    """Return for each selector the agents that it matches; selectors that match none are left out."""
    # Most agents share their labels with others: match each set of labels once.
    groups: dict[tuple[tuple[str, str], ...], tuple[Mapping[str, str], list[UUID]]] = {}
    for agent in agents:
        groups.setdefault(tuple(sorted(agent.labels.items())), (agent.labels, []))[1].append(agent.id)
    found: dict[int, tuple[UUID, ...]] = {}
    for selector_id, selector in selectors.items():
        ids = [identity for labels, members in groups.values() if selector.matches(labels) for identity in members]
        if ids:
            found[selector_id] = tuple(ids)
    return found


def plan(queue: Sequence[QueuedStep], agents: Sequence[AgentSlots], matches: Mapping[int, Sequence[UUID]]) -> Plan:
    """Place the queue, in its order, on the agents with the most free slots.

    Args:
        queue: Step runs, the most urgent first.
        agents: Agents that can be reached.
        matches: For each selector the agents that it matches, as `matching` answers.
    """
    free = {agent.id: agent.free for agent in agents if agent.free > 0}
    order = {agent.id: position for position, agent in enumerate(agents)}
    heaps: dict[int, list[tuple[int, int, UUID]]] = {}
    assignments: list[tuple[UUID, UUID]] = []
    waiting: dict[UUID, WaitReason] = {}
    for step in queue:
        if step.agent_id is not None:
            chosen = step.agent_id if free.get(step.agent_id, 0) > 0 else None
            reason = WaitReason.AGENTS_FULL if step.agent_id in order else WaitReason.AGENT_AWAY
        else:
            if step.selector_id not in heaps:
                ids = matches.get(step.selector_id, ())
                heaps[step.selector_id] = [(-free[one], order[one], one) for one in ids if free.get(one, 0) > 0]
                heapq.heapify(heaps[step.selector_id])
            chosen = _freest(heaps[step.selector_id], free)
            reason = WaitReason.AGENTS_FULL if matches.get(step.selector_id) else WaitReason.NO_MATCHING_AGENT
        if chosen is None:
            waiting[step.step_run_id] = reason
        else:
            free[chosen] -= 1
            assignments.append((step.step_run_id, chosen))
    return Plan(tuple(assignments), waiting)


def _freest(heap: list[tuple[int, int, UUID]], free: Mapping[UUID, int]) -> UUID | None:
    """Return the agent with the most free slots; entries that other selectors made stale are put right on the way."""
    while heap:
        negative, position, agent_id = heap[0]
        actual = free[agent_id]
        if actual == -negative:
            heapq.heapreplace(heap, (negative + 1, position, agent_id)) if actual > 1 else heapq.heappop(heap)
            return agent_id
        heapq.heapreplace(heap, (-actual, position, agent_id)) if actual > 0 else heapq.heappop(heap)
    return None
