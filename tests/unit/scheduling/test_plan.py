"""Which agent takes which step: beside a naive evaluator, and what must hold of any plan."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random
from uuid import UUID

import pytest
from hypothesis import given, settings

from arcentra_server.domain.selectors import ANY_AGENT, Operator, Selector, Term
from arcentra_server.scheduling.plan import AgentSlots, Plan, QueuedStep, WaitReason, matching, plan
from tests.support.dice import cases

SELECTORS = {
    1: ANY_AGENT,
    2: Selector((Term("os", Operator.IN, ("linux",)),)),
    3: Selector((Term("os", Operator.NOT_IN, ("linux",)),)),
    4: Selector((Term("cpus", Operator.GT, ("4",)), Term("os", Operator.EXISTS))),
    5: Selector((Term("gpu", Operator.EXISTS),)),
}
LABELS: tuple[dict[str, str], ...] = (
    {},
    {"os": "linux"},
    {"os": "darwin", "cpus": "8"},
    {"os": "linux", "cpus": "16"},
    {"cpus": "many"},
)
STEP_IDS = [UUID(int=number) for number in range(1000, 10_000)]
AGENT_IDS = [UUID(int=number) for number in range(1, 10)]


@dataclass(frozen=True)
class Snapshot:
    """What a pass of the scheduler sees."""

    queue: tuple[QueuedStep, ...]
    agents: tuple[AgentSlots, ...]

    def plan(self) -> Plan:
        return plan(self.queue, self.agents, matching(SELECTORS, self.agents))


def some_agents(dice: Random) -> tuple[AgentSlots, ...]:
    ids = dice.sample(AGENT_IDS, dice.randint(0, 6))
    return tuple(AgentSlots(agent_id, dice.choice(LABELS), dice.randint(0, 4)) for agent_id in ids)


def some_snapshot(dice: Random) -> Snapshot:
    """A third of the steps is bound to an agent, which may not be there."""
    steps = (
        QueuedStep(step_id, dice.choice(sorted(SELECTORS)), dice.choice((None, None, dice.choice(AGENT_IDS))))
        for step_id in dice.sample(STEP_IDS, dice.randint(0, 15))
    )
    return Snapshot(tuple(steps), some_agents(dice))


AGENTS = cases(some_agents)
SNAPSHOTS = cases(some_snapshot)


def naive(snapshot: Snapshot) -> Plan:
    """Take each step in turn, look at every agent, and choose the one with the most room."""
    free = {agent.id: agent.free for agent in snapshot.agents}
    placed: list[tuple[UUID, UUID]] = []
    waiting: dict[UUID, WaitReason] = {}
    for step in snapshot.queue:
        if step.agent_id is None:
            able = [agent for agent in snapshot.agents if SELECTORS[step.selector_id].matches(agent.labels)]
            reason = WaitReason.NO_MATCHING_AGENT
        else:
            able = [agent for agent in snapshot.agents if agent.id == step.agent_id]
            reason = WaitReason.AGENT_AWAY
        if not able:
            waiting[step.step_run_id] = reason
        elif all(free[agent.id] == 0 for agent in able):
            waiting[step.step_run_id] = WaitReason.AGENTS_FULL
        else:
            chosen = max(able, key=lambda agent: free[agent.id])  # the first of several
            free[chosen.id] -= 1
            placed.append((step.step_run_id, chosen.id))
    return Plan(tuple(placed), waiting)


@settings(max_examples=1_000, deadline=None)
@given(SNAPSHOTS)
def test_plans_as_a_naive_evaluator(snapshot: Snapshot) -> None:
    assert snapshot.plan() == naive(snapshot)


@settings(max_examples=500, deadline=None)
@given(SNAPSHOTS)
def test_what_holds_of_every_plan(snapshot: Snapshot) -> None:
    made = snapshot.plan()
    agents = {agent.id: agent for agent in snapshot.agents}
    steps = {step.step_run_id: step for step in snapshot.queue}
    taken = Counter(agent_id for _, agent_id in made.assignments)
    placed = [step_id for step_id, _ in made.assignments]

    assert all(taken[agent.id] <= agent.free for agent in agents.values()), "over-committed"
    assert sorted([*placed, *made.waiting]) == sorted(steps), "each step is placed or waits, once"
    assert placed == [step.step_run_id for step in snapshot.queue if step.step_run_id in placed], "out of order"
    for step_id, agent_id in made.assignments:
        step = steps[step_id]
        if step.agent_id is not None:
            assert agent_id == step.agent_id
        else:
            assert SELECTORS[step.selector_id].matches(agents[agent_id].labels)
    full = {agent.id for agent in agents.values() if taken[agent.id] == agent.free}
    for step_id, reason in made.waiting.items():
        step = steps[step_id]
        bound, selector = step.agent_id, SELECTORS[step.selector_id]
        able = {one.id for one in agents.values() if (one.id == bound if bound else selector.matches(one.labels))}
        assert able <= full, "a step waits beside a free slot"
        missing = WaitReason.AGENT_AWAY if bound else WaitReason.NO_MATCHING_AGENT
        assert reason is (WaitReason.AGENTS_FULL if able else missing)


@given(SNAPSHOTS)
def test_is_deterministic(snapshot: Snapshot) -> None:
    assert snapshot.plan() == snapshot.plan()


@given(SNAPSHOTS)
def test_leaves_its_arguments_alone(snapshot: Snapshot) -> None:
    matches = matching(SELECTORS, snapshot.agents)
    before = dict(matches)
    plan(snapshot.queue, snapshot.agents, matches)
    assert matches == before


@given(AGENTS)
def test_matching_answers_as_each_selector_does(agents: tuple[AgentSlots, ...]) -> None:
    found = matching(SELECTORS, agents)
    for selector_id, selector in SELECTORS.items():
        expected = {agent.id for agent in agents if selector.matches(agent.labels)}
        assert set(found.get(selector_id, ())) == expected
        assert len(found.get(selector_id, ())) == len(expected)
    assert all(found.values()), "selectors that match no agent are left out"


X, Y, Z = UUID(int=1), UUID(int=2), UUID(int=3)
ONE, TWO, THREE = UUID(int=1001), UUID(int=1002), UUID(int=1003)


@pytest.mark.parametrize(
    ("step", "free", "reason"),
    [
        (QueuedStep(ONE, 1), 0, WaitReason.AGENTS_FULL),
        (QueuedStep(ONE, 5), 1, WaitReason.NO_MATCHING_AGENT),
        (QueuedStep(ONE, 5), 0, WaitReason.NO_MATCHING_AGENT),
        (QueuedStep(ONE, 1, X), 0, WaitReason.AGENTS_FULL),
        (QueuedStep(ONE, 1, Y), 1, WaitReason.AGENT_AWAY),
    ],
)
def test_reason_of_a_step_that_waits(step: QueuedStep, free: int, reason: WaitReason) -> None:
    made = Snapshot((step,), (AgentSlots(X, {"os": "linux"}, free),)).plan()
    assert (made.assignments, made.waiting) == ((), {ONE: reason})


def test_first_in_the_queue_is_served_first() -> None:
    made = Snapshot((QueuedStep(TWO, 1), QueuedStep(ONE, 1)), (AgentSlots(X, {}, 1),)).plan()
    assert (made.assignments, made.waiting) == (((TWO, X),), {ONE: WaitReason.AGENTS_FULL})


def test_bound_step_goes_to_its_agent_whatever_its_selector_says() -> None:
    made = Snapshot((QueuedStep(ONE, 5, X),), (AgentSlots(X, {}, 1), AgentSlots(Y, {"gpu": "1"}, 9))).plan()
    assert made.assignments == ((ONE, X),)


def test_work_is_spread_over_the_agents_with_the_most_room() -> None:
    queue = tuple(QueuedStep(step_id, 1) for step_id in (ONE, TWO, THREE))
    made = Snapshot(queue, (AgentSlots(X, {}, 1), AgentSlots(Y, {}, 3), AgentSlots(Z, {}, 2))).plan()
    assert made.assignments == ((ONE, Y), (TWO, Y), (THREE, Z))


def test_slots_that_another_selector_took_are_not_given_twice() -> None:
    linux = {"os": "linux"}
    queue = (QueuedStep(ONE, 1), QueuedStep(TWO, 2), QueuedStep(THREE, 1))
    made = Snapshot(queue, (AgentSlots(X, linux, 2),)).plan()
    assert (made.assignments, made.waiting) == (((ONE, X), (TWO, X)), {THREE: WaitReason.AGENTS_FULL})
