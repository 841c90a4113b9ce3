"""`explain`: for every agent why it does or does not take a step run, and the whole in a word and a sentence. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from arcentra_server.domain.fleet import in_words
from arcentra_server.domain.labels import LabelSet
from arcentra_server.domain.selectors import Selector
from arcentra_server.scheduling.plan import AgentSlots, QueuedStep, Snapshot, Takes, plan
from arcentra_server.scheduling.pools import Pools
from arcentra_server.scheduling.reasons import Obstacle, WaitReason

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_LASTING = frozenset({Obstacle.LABEL, Obstacle.RESERVED, Obstacle.OTHER_AGENT})
_WANTED_BY_PEOPLE = frozenset({Obstacle.PENDING_APPROVAL, Obstacle.DISABLED, Obstacle.DRAINING})


@dataclass(frozen=True, slots=True)
class AgentView:
    """An agent as far as it matters here.

    `online`: its lease time is not over. `drains`: it is drained, or drains by itself. `note`: why it is drained or
    disabled. `last_contact`: Unix seconds, None for never.
    """

    id: UUID
    name: str
    labels: LabelSet
    capacity: int
    running: int
    online: bool
    last_contact: float | None = None
    approved: bool = True
    disabled: bool = False
    drains: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Hindrance:
    """One reason why an agent does not take a step run: what kind, and in words.

    `label`, `wanted`, `had`: the name of the label, the condition, and the value of the agent, None for none. `since`:
    Unix seconds, None when that is not known.
    """

    obstacle: Obstacle
    detail: str
    label: str = ""
    wanted: str = ""
    had: str | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What keeps an agent from taking a step run; nothing: it could take it now."""

    agent_id: UUID
    name: str
    hindrances: tuple[Hindrance, ...]

    @property
    def can_take(self) -> bool:
        return not self.hindrances


def verdicts(selector: Selector, bound_to: UUID | None, agents: Sequence[AgentView], now: float) -> list[Verdict]:
    """Return the verdict on every agent, those first that come nearest.

    Args:
        selector: Which agents may run the step.
        bound_to: The only agent that may, as it has the workspace of the job; None for any that the selector admits.
        agents: All agents.
        now: Unix seconds.
    """
    found = [Verdict(agent.id, agent.name, tuple(_hindrances(selector, bound_to, agent, now))) for agent in agents]
    return sorted(found, key=_distance)


def wait_reason(step: QueuedStep, selector: Selector, agents: Sequence[AgentView], now: float) -> WaitReason | None:
    """Return why a plan for all agents would not place a step run of the queue; None when it would.

    Args:
        step: The step run.
        selector: Its selector.
        agents: All agents.
        now: Seconds, of the clock of `step.ready_at`.
    """
    slots = [
        AgentSlots(agent.id, agent.labels, max(0, agent.capacity - agent.running), _takes(agent), agent.online)
        for agent in agents
    ]
    planned = plan(Snapshot([step], slots, Pools({step.selector_id: selector})), now)
    return planned.waiting().get(step.step_run_id)


def _takes(agent: AgentView) -> Takes:
    if not agent.approved or agent.disabled:
        return Takes.NOTHING
    return Takes.BOUND if agent.drains else Takes.ALL


def in_a_sentence(selector: Selector, bound_to: UUID | None, found: Sequence[Verdict]) -> str:
    """Return why a step run of the queue waits, of what `verdicts` found."""
    if not found:
        return "no agent is registered"
    if bound_to is not None:
        return _bound_sentence(bound_to, found)
    if any(verdict.can_take for verdict in found):
        return "an agent is free and takes it next"
    lasting = [verdict for verdict in found if not any(one.obstacle in _LASTING for one in verdict.hindrances)]
    if not lasting:
        nearest = found[0]
        lacks = ", ".join(one.detail for one in nearest.hindrances if one.obstacle in _LASTING)
        wanted = ", ".join(in_words(term) for term in selector.terms) or "any agent"
        return f"no agent can serve {wanted}: nearest is `{nearest.name}` ({lacks})"
    return _why_none_takes_it(lasting)


def _why_none_takes_it(admitted: Sequence[Verdict]) -> str:
    """Say what the agents do that could serve a step run by their labels."""
    which = f"the agent `{admitted[0].name}`" if len(admitted) == 1 else f"all {len(admitted)} agents"
    kinds = [{one.obstacle for one in verdict.hindrances} for verdict in admitted]
    offline = sum(Obstacle.OFFLINE in kind for kind in kinds)
    kept = sum(bool(kind & _WANTED_BY_PEOPLE) and Obstacle.OFFLINE not in kind for kind in kinds)
    full = len(admitted) - offline - kept
    are = "is" if len(admitted) == 1 else "are"
    if len(admitted) == offline:
        return f"{which} that can serve it {are} offline"
    if len(admitted) == kept:
        return f"{which} that can serve it {are} drained, disabled or not approved"
    if len(admitted) == full:
        return f"{which} that can serve it {are} full"
    parts = [f"{count} {word}" for count, word in ((full, "full"), (kept, "not taking work"), (offline, "offline"))]
    return f"of {len(admitted)} agents that can serve it: " + ", ".join(part for part in parts if part[0] != "0")


def _bound_sentence(bound_to: UUID, found: Sequence[Verdict]) -> str:
    mine = next((verdict for verdict in found if verdict.agent_id == bound_to), None)
    if mine is None:
        return "the agent that has the workspace of its job is gone"
    if mine.can_take:
        return f"the agent `{mine.name}`, which has the workspace of its job, takes it next"
    why = ", ".join(one.detail for one in mine.hindrances)
    return f"only the agent `{mine.name}` has the workspace of its job: {why}"


def _distance(verdict: Verdict) -> tuple[int, int, str]:
    lasting = sum(one.obstacle in _LASTING for one in verdict.hindrances)
    return lasting, len(verdict.hindrances) - lasting, verdict.name


def _hindrances(selector: Selector, bound_to: UUID | None, agent: AgentView, now: float) -> list[Hindrance]:
    if bound_to is not None:
        if agent.id != bound_to:
            return [Hindrance(Obstacle.OTHER_AGENT, "another agent has the workspace of the job")]
        return _states(agent, now, is_bound=True)
    found = []
    for term in selector.terms:
        if not term.matches(agent.labels.values):
            had, wanted = agent.labels.values.get(term.key), in_words(term)
            has = f"has {term.key}={had}" if had is not None else f"has no label {term.key}"
            found.append(Hindrance(Obstacle.LABEL, f"wanted {wanted}, {has}", term.key, wanted, had))
    for label in sorted(agent.labels.reserved - selector.asks):
        reserved = f"reserved for step runs that ask for the label {label}"
        found.append(Hindrance(Obstacle.RESERVED, reserved, label))
    return found + _states(agent, now, is_bound=False)


def _states(agent: AgentView, now: float, *, is_bound: bool) -> list[Hindrance]:
    """Return what keeps an agent from taking anything, or anything new."""
    found = []
    noted = f": {agent.note}" if agent.note else ""
    if not agent.online:
        since = agent.last_contact
        for_long = f"offline for {_duration(now - since)}" if since is not None else "was never connected"
        found.append(Hindrance(Obstacle.OFFLINE, for_long, since=since))
    if not agent.approved:
        found.append(Hindrance(Obstacle.PENDING_APPROVAL, "waits for an operator to approve it"))
    if agent.disabled:
        found.append(Hindrance(Obstacle.DISABLED, f"disabled by an operator{noted}"))
    elif agent.drains and not is_bound:
        found.append(Hindrance(Obstacle.DRAINING, f"takes nothing new{noted}"))
    if agent.running >= agent.capacity:
        slots = "its slot is" if agent.capacity == 1 else f"all {agent.capacity} slots are"
        found.append(Hindrance(Obstacle.FULL, f"full: {slots} taken"))
    return found


def _duration(seconds: float) -> str:
    whole = max(0, int(seconds))
    for size, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "m")):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"
