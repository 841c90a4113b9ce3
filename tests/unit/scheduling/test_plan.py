"""Which agent takes which step: beside a naive evaluator, and what must hold of any plan."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcentra_server.domain.labels import LabelSet, in_force
from arcentra_server.domain.selectors import ANY_AGENT, Operator, Selector, Term
from arcentra_server.scheduling.plan import AgentSlots, Plan, QueuedStep, Snapshot, Takes, plan
from arcentra_server.scheduling.pools import Pools
from arcentra_server.scheduling.reasons import WaitReason

NOW = 100.0
SELECTORS = {
    1: ANY_AGENT,
    2: Selector((Term("os", Operator.IN, ("linux",)),)),
    3: Selector((Term("os", Operator.NOT_IN, ("linux",)),)),
    4: Selector((Term("cpus", Operator.GT, ("4",)), Term("os", Operator.EXISTS))),
    5: Selector((Term("gpu", Operator.EXISTS),)),
    6: Selector((Term("gpu", Operator.IN, ("a100", "h100")),)),
    7: Selector((Term("gpu", Operator.NOT_IN, ("old",)),)),
    8: Selector((Term("none", Operator.IN, ("such",)),)),
}
LABELS: tuple[LabelSet, ...] = tuple(
    in_force(claimed, {})
    for claimed in (
        {},
        {"os": "linux"},
        {"os": "darwin", "cpus": "8"},
        {"os": "linux", "cpus": "16"},
        {"cpus": "many"},
        {"os": "linux", "gpu": "a100"},
        {"os": "linux", "!gpu": "a100"},
        {"!gpu": "old", "!cpus": "8"},
    )
)


def any_snapshot(source: random.Random) -> Snapshot:
    """A few agents in any state, and more step runs than they have room for, or fewer."""
    agents = [
        AgentSlots(
            UUID(int=number),
            source.choice(LABELS),
            source.randrange(4),
            source.choice([Takes.ALL, Takes.ALL, *Takes]),
            source.random() < 0.8,
        )
        for number in source.sample(range(1, 9), source.randrange(7))
    ]
    queue = [
        QueuedStep(
            UUID(int=1_000 + number),
            source.choice([*SELECTORS, 99]),
            UUID(int=source.randrange(1, 9)) if source.random() < 0.25 else None,
            source.random() < 0.05,
            source.choice([0.0, 0.0, 0.0, NOW, NOW + 1]),
        )
        for number in range(source.randrange(16))
    ]
    return Snapshot(queue, agents, Pools(SELECTORS))


SNAPSHOTS = st.randoms(use_true_random=False).map(any_snapshot)


def admits(selector_id: int, labels: LabelSet) -> bool:
    """What a selector and a reserved agent say, term by term."""
    selector = SELECTORS.get(selector_id)
    if selector is None:
        return False
    without = {name: [term for term in selector.terms if term.key == name] for name in labels.reserved}
    asked = all(
        any(not term.matches({}) and term.matches(labels.values) for term in terms) for terms in without.values()
    )
    return asked and all(term.matches(labels.values) for term in selector.terms)


def naive_reason(step: QueuedStep, agents: Mapping[UUID, AgentSlots]) -> WaitReason:
    """The first reason that holds, whatever room there is."""
    if step.held:
        return WaitReason.PAUSED
    if step.ready_at > NOW:
        return WaitReason.RETRY_DELAY
    if step.agent_id is not None:
        agent = agents.get(step.agent_id)
        if agent is None or not agent.online:
            return WaitReason.AGENT_AWAY
        return WaitReason.AGENT_UNAVAILABLE if agent.takes is Takes.NOTHING else WaitReason.AGENT_FULL
    selector = SELECTORS.get(step.selector_id)
    fitting = [one for one in agents.values() if selector and selector.matches(one.labels.values)]
    admitted = [one for one in fitting if admits(step.selector_id, one.labels)]
    online = [one for one in admitted if one.online]
    taking = [one for one in online if one.takes is Takes.ALL]
    for found, reason in (
        (fitting, WaitReason.NO_MATCHING_AGENT),
        (admitted, WaitReason.RESERVED),
        (online, WaitReason.AGENTS_OFFLINE),
        (taking, WaitReason.AGENTS_UNAVAILABLE),
    ):
        if not found:
            return reason
    return WaitReason.AGENTS_FULL


def naive(snapshot: Snapshot) -> tuple[list[tuple[UUID, UUID]], dict[UUID, WaitReason]]:
    """Take each step in turn, look at every agent, and choose the one with the most room; then keep neighbours together."""
    free = {agent.id: agent.free for agent in snapshot.agents}
    agents = {agent.id: agent for agent in snapshot.agents}
    placed: list[tuple[QueuedStep, UUID]] = []
    waiting = {}
    for step in snapshot.queue:
        able = [one for one in snapshot.agents if one.online and free[one.id] and may_take(step, one)]
        if step.held or step.ready_at > NOW or not able:
            waiting[step.step_run_id] = naive_reason(step, agents)
        else:
            chosen = max(able, key=lambda one: free[one.id])  # the first of several
            free[chosen.id] -= 1
            placed.append((step, chosen.id))
    return together(placed, snapshot), waiting


def together(placed: list[tuple[QueuedStep, UUID]], snapshot: Snapshot) -> list[tuple[UUID, UUID]]:
    """Let step runs that the same agents may take change their agents, so that each agent has neighbours."""
    usable = [one for one in snapshot.agents if one.online and one.free]
    given = [agent_id for _, agent_id in placed]
    able = [None if step.agent_id else tuple(one.id for one in usable if may_take(step, one)) for step, _ in placed]
    for group in set(able) - {None}:
        places = [place for place, one in enumerate(able) if one == group]
        agents = [given[place] for place in places]
        for place, agent_id in zip(places, sorted(agents, key=agents.index), strict=True):
            given[place] = agent_id
    return [(step.step_run_id, agent_id) for (step, _), agent_id in zip(placed, given, strict=True)]


def may_take(step: QueuedStep, agent: AgentSlots) -> bool:
    if step.agent_id is not None:
        return step.agent_id == agent.id and agent.takes is not Takes.NOTHING
    return agent.takes is Takes.ALL and admits(step.selector_id, agent.labels)


def test_plans_as_a_naive_evaluator() -> None:
    source = random.Random(3)  # noqa: S311 - a fixed seed
    reasons = set()
    for _ in range(10_000):
        snapshot = any_snapshot(source)
        made = plan(snapshot, NOW)
        assert (list(made.assignments), made.waiting()) == naive(snapshot), snapshot
        reasons |= set(made.waiting().values())
    assert reasons == set(WaitReason), "the cases leave a reason out"


@settings(max_examples=500, deadline=None)
@given(SNAPSHOTS)
def test_what_holds_of_every_plan(snapshot: Snapshot) -> None:
    made = plan(snapshot, NOW)
    agents = {agent.id: agent for agent in snapshot.agents}
    steps = {step.step_run_id: step for step in snapshot.queue}
    taken = Counter(agent_id for _, agent_id in made.assignments)
    placed = [step_id for step_id, _ in made.assignments]
    left = [step.step_run_id for step in made.rest]
    order = [step.step_run_id for step in snapshot.queue]

    assert all(taken[agent.id] <= agent.free for agent in agents.values()), "over-committed"
    assert sorted([*placed, *left]) == sorted(steps), "each step is placed or left, once"
    assert list(made.waiting()) == left, "each that is left has its reason"
    assert [placed, left] == [[one for one in order if one in some] for some in (set(placed), set(left))], (
        "out of order"
    )
    for step_id, agent_id in made.assignments:
        step, agent = steps[step_id], agents[agent_id]
        assert (agent.online, step.held) == (True, False)
        assert agent.takes is not Takes.NOTHING
        assert step.ready_at <= NOW
        if step.agent_id is not None:
            assert agent_id == step.agent_id
        else:
            assert agent.takes is Takes.ALL
            assert SELECTORS[step.selector_id].matches(agent.labels.values), "a selector that does not match"
            assert admits(step.selector_id, agent.labels), "a reserved agent that was not asked for"
    for step in made.rest:
        if not step.held and step.ready_at <= NOW:
            able = [one for one in agents.values() if one.online and may_take(step, one)]
            assert all(taken[one.id] == one.free for one in able), "a step waits beside a free slot"
    takers = [one for one in agents.values() if one.online and one.takes is Takes.ALL]
    assert made.room == sum(one.free - taken[one.id] for one in takers)


@given(SNAPSHOTS)
def test_is_deterministic_and_leaves_its_arguments_alone(snapshot: Snapshot) -> None:
    before = replace(snapshot, queue=list(snapshot.queue), agents=list(snapshot.agents))
    first = plan(snapshot, NOW)
    assert (before.queue, before.agents) == (snapshot.queue, snapshot.agents)
    again = plan(before, NOW)
    assert (first.assignments, first.rest, first.waiting()) == (again.assignments, again.rest, again.waiting())


@pytest.mark.parametrize("seed", range(20))
def test_starves_nobody(seed: int) -> None:
    """Arrivals without end, more than there is room for, and one each pass of a pipeline that comes anew.

    Each step that waits has its turn: first those of a pipeline that has much, then one behind all of another's. The
    shares are those of `db/shares.py`, by hand.
    """
    source = random.Random(seed)  # noqa: S311 - a fixed seed
    level, clock = 0, 0
    queue: list[tuple[int, int, int, int]] = []  # (share, age, pipeline, selector)
    agents = [AgentSlots(UUID(int=one), source.choice(LABELS[1:4]), source.randrange(1, 3)) for one in range(1, 4)]
    pools = Pools(SELECTORS)
    servable = [one for one in SELECTORS if any(admits(one, agent.labels) for agent in agents)]

    def arrive(pipeline: int, number: int) -> None:
        nonlocal clock
        last = max([level, *(share for share, _, owner, _ in queue if owner == pipeline)])
        for place in range(1, number + 1):
            clock += 1
            queue.append((last + place, clock, pipeline, source.choice(servable)))

    arrive(1, 100)
    arrive(0, 30)
    first = {age for _, age, _, _ in queue}
    passes = 0
    while first & {age for _, age, _, _ in queue}:
        passes += 1
        assert passes < 400, f"still waiting: {first & {age for _, age, _, _ in queue}}"
        for owner in (1, 1, 1, 2, 2, 2, 1_000 + clock):
            arrive(owner, 1)
        queue.sort()
        steps = {UUID(int=age): (share, age, owner, selector) for share, age, owner, selector in queue}
        made = plan(Snapshot([QueuedStep(one, row[3]) for one, row in steps.items()], agents, pools), NOW)
        assert made.assignments
        base = level
        for place, (step_id, _) in enumerate(made.assignments, 1):
            level = max(level, min(steps[step_id][0], base + place))
            queue.remove(steps[step_id])


X, Y, Z = UUID(int=1), UUID(int=2), UUID(int=3)
ONE, TWO, THREE = UUID(int=1001), UUID(int=1002), UUID(int=1003)
PLAIN, LINUX, WITH_GPU, FOR_GPU = LABELS[0], LABELS[1], LABELS[5], LABELS[6]


def planned(queue: list[QueuedStep], *agents: AgentSlots) -> Plan:
    return plan(Snapshot(queue, agents, Pools(SELECTORS)), NOW)


@pytest.mark.parametrize(
    ("step", "agent", "reason"),
    [
        (QueuedStep(ONE, 1, held=True), AgentSlots(X, LINUX, 1), WaitReason.PAUSED),
        (QueuedStep(ONE, 1, ready_at=NOW + 0.1), AgentSlots(X, LINUX, 1), WaitReason.RETRY_DELAY),
        (QueuedStep(ONE, 5), AgentSlots(X, LINUX, 1), WaitReason.NO_MATCHING_AGENT),
        (QueuedStep(ONE, 99), AgentSlots(X, LINUX, 1), WaitReason.NO_MATCHING_AGENT),
        (QueuedStep(ONE, 2), AgentSlots(X, FOR_GPU, 1), WaitReason.RESERVED),
        (QueuedStep(ONE, 7), AgentSlots(X, FOR_GPU, 1), WaitReason.RESERVED),
        (QueuedStep(ONE, 2), AgentSlots(X, LINUX, 1, online=False), WaitReason.AGENTS_OFFLINE),
        (QueuedStep(ONE, 2), AgentSlots(X, LINUX, 1, Takes.BOUND), WaitReason.AGENTS_UNAVAILABLE),
        (QueuedStep(ONE, 2), AgentSlots(X, LINUX, 1, Takes.NOTHING), WaitReason.AGENTS_UNAVAILABLE),
        (QueuedStep(ONE, 2), AgentSlots(X, LINUX, 0), WaitReason.AGENTS_FULL),
        (QueuedStep(ONE, 1, Y), AgentSlots(X, LINUX, 1), WaitReason.AGENT_AWAY),
        (QueuedStep(ONE, 1, X), AgentSlots(X, LINUX, 1, online=False), WaitReason.AGENT_AWAY),
        (QueuedStep(ONE, 1, X), AgentSlots(X, LINUX, 1, Takes.NOTHING), WaitReason.AGENT_UNAVAILABLE),
        (QueuedStep(ONE, 1, X), AgentSlots(X, LINUX, 0), WaitReason.AGENT_FULL),
    ],
)
def test_reason_of_a_step_that_waits(step: QueuedStep, agent: AgentSlots, reason: WaitReason) -> None:
    made = planned([step], agent)
    assert (made.assignments, made.waiting()) == ((), {ONE: reason})


def test_first_in_the_queue_is_served_first() -> None:
    made = planned([QueuedStep(TWO, 1), QueuedStep(ONE, 1)], AgentSlots(X, PLAIN, 1))
    assert (made.assignments, made.waiting()) == (((TWO, X),), {ONE: WaitReason.AGENTS_FULL})


def test_bound_step_goes_to_its_agent_whatever_its_selector_says() -> None:
    made = planned([QueuedStep(ONE, 5, X)], AgentSlots(X, PLAIN, 1), AgentSlots(Y, WITH_GPU, 9))
    assert made.assignments == ((ONE, X),)


def test_agent_that_drains_gets_only_what_is_bound_to_it() -> None:
    made = planned([QueuedStep(ONE, 1, X), QueuedStep(TWO, 1)], AgentSlots(X, PLAIN, 5, Takes.BOUND))
    assert (made.assignments, made.waiting()) == (((ONE, X),), {TWO: WaitReason.AGENTS_UNAVAILABLE})


def test_reserved_agent_is_for_those_that_ask() -> None:
    queue = [QueuedStep(ONE, 1), QueuedStep(TWO, 6), QueuedStep(THREE, 7)]
    made = planned(queue, AgentSlots(X, FOR_GPU, 9), AgentSlots(Y, WITH_GPU, 1))
    assert (made.assignments, made.waiting()) == (((ONE, Y), (TWO, X)), {THREE: WaitReason.AGENTS_FULL})


def test_work_is_spread_over_the_agents_with_the_most_room() -> None:
    queue = [QueuedStep(step_id, 1) for step_id in (ONE, TWO, THREE)]
    made = planned(queue, AgentSlots(X, PLAIN, 1), AgentSlots(Y, PLAIN, 3), AgentSlots(Z, LINUX, 2))
    assert made.assignments == ((ONE, Y), (TWO, Y), (THREE, Z))


def test_neighbours_go_to_one_agent() -> None:
    queue = [QueuedStep(UUID(int=1_000 + number), 1) for number in range(6)]
    made = planned(queue, AgentSlots(X, PLAIN, 2), AgentSlots(Y, PLAIN, 2), AgentSlots(Z, PLAIN, 3))
    assert [agent_id for _, agent_id in made.assignments] == [Z, Z, X, X, Y, Y]


def test_slots_that_another_selector_took_are_not_given_twice() -> None:
    queue = [QueuedStep(ONE, 1), QueuedStep(TWO, 2), QueuedStep(THREE, 1)]
    made = planned(queue, AgentSlots(X, LINUX, 2), AgentSlots(Y, PLAIN, 0))
    assert (made.assignments, made.waiting()) == (((ONE, X), (TWO, X)), {THREE: WaitReason.AGENTS_FULL})
