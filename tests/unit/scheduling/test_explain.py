"""Verdicts on agents, and the sentence that sums them up."""

from __future__ import annotations

import random
from uuid import UUID

import pytest

from arcentra_server.domain.labels import in_force
from arcentra_server.domain.selectors import ANY_AGENT, Operator, Selector, Term
from arcentra_server.scheduling.explain import AgentView, Verdict, in_a_sentence, verdicts
from arcentra_server.scheduling.plan import AgentSlots, QueuedStep, Snapshot, Takes, plan
from arcentra_server.scheduling.pools import Pools
from arcentra_server.scheduling.reasons import Obstacle

NOW = 1_000_000.0
ARM = Selector((Term("arch", Operator.IN, ("arm64",)),))


def view(name: str = "a", number: int = 1, **more: object) -> AgentView:
    labels = in_force(more.pop("claimed", {}), {})  # type: ignore[arg-type]
    known: dict[str, object] = {"capacity": 2, "running": 0, "online": True, "last_contact": NOW - 200, **more}
    return AgentView(UUID(int=number), name, labels, **known)  # type: ignore[arg-type]


def details(found: list[Verdict]) -> list[tuple[str, str]]:
    return [(one.obstacle.value, one.detail) for verdict in found for one in verdict.hindrances]


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        (view(), []),
        (view(running=2), [("full", "full: all 2 slots are taken")]),
        (view(running=3, capacity=1), [("full", "full: its slot is taken")]),
        (view(online=False), [("offline", "offline for 3 m")]),
        (view(online=False, last_contact=NOW - 7), [("offline", "offline for 7 s")]),
        (view(online=False, last_contact=NOW - 90_000), [("offline", "offline for 1 d")]),
        (view(online=False, last_contact=None), [("offline", "was never connected")]),
        (view(approved=False), [("pending_approval", "waits for an operator to approve it")]),
        (view(disabled=True, note="new disk"), [("disabled", "disabled by an operator: new disk")]),
        (view(drains=True), [("draining", "takes nothing new")]),
        (view(claimed={"!gpu": "1"}), [("reserved", "reserved for step runs that ask for the label gpu")]),
    ],
)
def test_what_keeps_an_agent_from_anything(agent: AgentView, expected: list[tuple[str, str]]) -> None:
    assert details(verdicts(ANY_AGENT, None, [agent], NOW)) == expected


def test_labels_wanted_and_had() -> None:
    selector = Selector((*ARM.terms, Term("cores", Operator.GT, ("4",)), Term("os", Operator.NOT_EXISTS)))
    [found] = verdicts(selector, None, [view(claimed={"arch": "amd64", "os": "linux"})], NOW)
    assert [(one.label, one.wanted, one.had, one.detail) for one in found.hindrances] == [
        ("arch", "arch=arm64", "amd64", "wanted arch=arm64, has arch=amd64"),
        ("cores", "cores>4", None, "wanted cores>4, has no label cores"),
        ("os", "the absence of a label os", "linux", "wanted the absence of a label os, has os=linux"),
    ]


def test_the_nearest_come_first() -> None:
    agents = [
        view("far", 1, claimed={"arch": "amd64"}, online=False),
        view("wrong", 2, claimed={"arch": "amd64"}),
        view("full", 3, claimed={"arch": "arm64"}, running=2),
        view("free", 4, claimed={"arch": "arm64"}),
    ]
    assert [one.name for one in verdicts(ARM, None, agents, NOW)] == ["free", "full", "wrong", "far"]


def test_a_step_that_is_bound_looks_at_its_agent_alone() -> None:
    agents = [view("mine", 1, claimed={"!x": "1"}, drains=True), view("other", 2)]
    mine, other = verdicts(ARM, UUID(int=1), agents, NOW)
    assert (mine.can_take, [one.obstacle for one in other.hindrances]) == (True, [Obstacle.OTHER_AGENT])


@pytest.mark.parametrize(
    ("agents", "bound", "sentence"),
    [
        ([], None, "no agent is registered"),
        ([view(claimed={"arch": "arm64"})], None, "an agent is free and takes it next"),
        (
            [view("x86", claimed={"arch": "amd64"})],
            None,
            "no agent can serve arch=arm64: nearest is `x86` (wanted arch=arm64, has arch=amd64)",
        ),
        (
            [view("m1", claimed={"arch": "arm64"}, online=False)],
            None,
            "the agent `m1` that can serve it is offline",
        ),
        (
            [view("m1", 1, claimed={"arch": "arm64"}, running=2), view("m2", 2, claimed={"arch": "arm64"}, running=2)],
            None,
            "all 2 agents that can serve it are full",
        ),
        (
            [view("m1", 1, claimed={"arch": "arm64"}, drains=True), view("x", 2)],
            None,
            "the agent `m1` that can serve it is drained, disabled or not approved",
        ),
        (
            [
                view("m1", 1, claimed={"arch": "arm64"}, running=2),
                view("m2", 2, claimed={"arch": "arm64"}, disabled=True),
                view("m3", 3, claimed={"arch": "arm64"}, online=False, disabled=True),
            ],
            None,
            "of 3 agents that can serve it: 1 full, 1 not taking work, 1 offline",
        ),
        (
            [view("m1", 1, online=False)],
            UUID(int=1),
            "only the agent `m1` has the workspace of its job: offline for 3 m",
        ),
        ([view("m1", 1)], UUID(int=1), "the agent `m1`, which has the workspace of its job, takes it next"),
        ([view("m1", 1)], UUID(int=9), "the agent that has the workspace of its job is gone"),
    ],
)
def test_sentence(agents: list[AgentView], bound: UUID | None, sentence: str) -> None:
    assert in_a_sentence(ARM, bound, verdicts(ARM, bound, agents, NOW)) == sentence


def test_verdicts_are_those_of_the_planner() -> None:
    """Whoever `plan` places a step run on can take it, and nobody can where it places none: 2,000 random fleets."""
    dice = random.Random(20_261)  # noqa: S311 - a seed
    for _ in range(2_000):
        agents = [_random_view(dice, number) for number in range(1, dice.randint(2, 6))]
        selector = Selector(tuple(_random_term(dice) for _ in range(dice.randint(0, 2))))
        bound = UUID(int=dice.randint(1, 5)) if dice.random() < 0.3 else None
        slots = [AgentSlots(one.id, one.labels, one.capacity - one.running, _takes(one), one.online) for one in agents]
        step = QueuedStep(UUID(int=99), 1, bound)
        planned = plan(Snapshot([step], slots, Pools({1: selector})), NOW)
        able = {one.agent_id for one in verdicts(selector, bound, agents, NOW) if one.can_take}
        assert {agent for _, agent in planned.assignments} <= able
        assert bool(planned.assignments) == bool(able)


def _takes(one: AgentView) -> Takes:
    if not one.approved or one.disabled:
        return Takes.NOTHING
    return Takes.BOUND if one.drains else Takes.ALL


def _random_view(dice: random.Random, number: int) -> AgentView:
    names = ("arch", "!gpu", "os")
    return view(
        f"a{number}",
        number,
        claimed={name: dice.choice(("arm64", "amd64", "4")) for name in names if dice.random() < 0.5},
        running=dice.randint(0, 2),
        online=dice.random() < 0.8,
        approved=dice.random() < 0.9,
        disabled=dice.random() < 0.1,
        drains=dice.random() < 0.2,
    )


def _random_term(dice: random.Random) -> Term:
    operator = dice.choice(list(Operator))
    values = ("arm64",) if operator in (Operator.IN, Operator.NOT_IN) else ("3",)
    return Term(dice.choice(("arch", "gpu", "os")), operator, values if "x" not in operator else ())
