"""Why step runs wait, as the rows say it."""

from __future__ import annotations

from uuid import UUID

import pytest

from arcentra_server.domain.errors import NotFound
from arcentra_server.domain.states import StepStatus
from arcentra_server.services.explain import Explanation
from tests.support.world import Run, World
from tests.support.written import spec_of

ARM = """
    jobs:
      - name: a
        agent_selector: {match_labels: {arch: arm64}}
        steps: [{name: a1, uses: shell, args: {script: a}}, {name: a2, uses: shell, args: {script: a}}]
"""
ORDER = """
    stages:
      - name: build
        jobs:
          - {name: a, steps: [{name: a1, uses: shell, args: {script: a}}]}
          - {name: b, depends_on: [a], steps: [{name: b1, uses: shell, args: {script: a}}]}
      - name: deploy
        approval: {}
        jobs: [{name: c, concurrency: prod, steps: [{name: c1, uses: shell, args: {script: a}}]}]
"""


async def _explain(run: Run, step: str) -> Explanation:
    return await run.world.server.explain.explain(await run.step_id(step))


async def _kinds(run: Run, step: str) -> list[tuple[str, str]]:
    return [(one.kind, one.detail) for one in (await _explain(run, step)).blocking]


async def test_a_step_that_no_agent_can_serve(world: World) -> None:
    run = await world.start(spec_of(ARM))
    assert (await _explain(run, "a1")).summary == "no agent is registered"
    await world.agent("x86", arch="amd64")
    found = await _explain(run, "a1")
    assert found.summary == "no agent can serve arch=arm64: nearest is `x86` (wanted arch=arm64, has arch=amd64)"
    assert (found.conditions, found.rank, found.length) == (["arch=arm64"], 1, 1)
    assert [(one.name, one.can_take) for one in found.verdicts] == [("x86", False)]
    assert await _kinds(run, "a2") == [("previous_step", "waits for a1 of its job")]


async def test_rank_counts_those_that_want_the_same_agents(world: World) -> None:
    arm = await world.agent("arm", arch="arm64")
    await world.agent("x86", online=False, arch="amd64")
    first = await world.start(".")
    await world.server.schedule()
    await world.begin(arm)
    runs = [await world.start(spec_of(ARM)) for _ in range(3)]
    await world.start(spec_of(ARM.replace("arm64", "amd64")))
    found = [await _explain(run, "a1") for run in runs]
    assert [(one.rank, one.length) for one in found] == [(1, 3), (2, 3), (3, 3)]
    assert found[0].summary == "the agent `arm` that can serve it is full"
    assert (await _explain(first, "a1")).summary == "it does not wait: it is RUNNING"
    urgent = await world.start(spec_of(ARM))
    await world.sql("UPDATE step_queue SET priority = 5 WHERE run_id = $1", urgent.id)
    assert ((await _explain(urgent, "a1")).rank, (await _explain(runs[0], "a1")).rank) == (1, 2)


async def test_a_step_that_is_bound_to_the_agent_of_its_job(world: World) -> None:
    agent = await world.agent("x", arch="arm64")
    run = await world.start(spec_of(ARM))
    await world.server.schedule()
    await world.sql("UPDATE agents SET disabled = true, note = 'new disk' WHERE id = $1", agent)
    await world.end(await world.begin(agent))
    found = await _explain(run, "a2")
    assert found.summary == "only the agent `x` has the workspace of its job: disabled by an operator: new disk"
    assert (found.rank, found.length) == (1, 1)


async def test_the_reason_is_that_of_the_planner(world: World) -> None:
    run = await world.start(spec_of(ARM))

    async def reason() -> str | None:
        return (await _explain(run, "a1")).reason

    assert await reason() == "no_matching_agent"
    agent = await world.agent("x", arch="arm64")
    assert await reason() is None, "it is placed next"
    for change, expected in (
        ('server_labels = \'{"!gpu": "1"}\'', "reserved"),
        ("server_labels = '{}', capacity = 1, lease_until = NULL", "agents_offline"),
        ("lease_until = clock_timestamp() + interval '1 h', drained = true", "agents_unavailable"),
        ("drained = false, approved = false", "agents_unavailable"),
    ):
        await world.sql(f"UPDATE agents SET {change}")  # noqa: S608 - of the lines above
        assert await reason() == expected
    await world.sql("UPDATE step_queue SET ready_at = clock_timestamp() + interval '1 h'")
    assert await reason() == "retry_delay"
    await world.sql("UPDATE step_queue SET held = true")
    assert await reason() == "paused"
    await world.sql("UPDATE step_queue SET held = false, ready_at = clock_timestamp()")
    await world.sql("UPDATE agents SET approved = true")
    other = await world.start(spec_of(ARM))
    await world.server.schedule()
    run, first = other, run
    assert await reason() == "agents_full"
    assert (await _explain(first, "a1")).reason is None, "it was leased"
    await world.sql("UPDATE agents SET drained = true")
    await world.sql("UPDATE step_queue SET agent_id = $1", agent)
    for change, expected in (
        ("drained = true", "agent_full"),
        ("disabled = true", "agent_unavailable"),
        ("lease_until = clock_timestamp()", "agent_away"),
    ):
        await world.sql(f"UPDATE agents SET {change}")  # noqa: S608 - of the lines above
        assert await reason() == expected


async def test_a_step_that_was_given_to_an_agent(world: World) -> None:
    await world.agent("x")
    run = await world.start(".")
    await world.server.schedule()
    assert (await _explain(run, "a1")).summary == "it was given to an agent, which has not started it yet"


async def test_what_comes_before_the_queue(world: World) -> None:
    agent = await world.agent("x", capacity=4)
    run = await world.start(spec_of(ORDER))
    assert await _kinds(run, "b1") == [("needs", "waits for job a")]
    assert await _kinds(run, "c1") == [
        ("stage", "waits for job a of stage build"),
        ("stage", "waits for job b of stage build"),
    ]
    await world.server.runs.pause(run.id, None, "", "tester")
    assert await _kinds(run, "a1") == [("paused", "the run is paused")]
    assert [kind for kind, _ in await _kinds(run, "b1")] == ["paused", "needs"]
    await world.server.runs.resume(run.id, None, "", "tester")
    await world.work(agent)
    [(kind, detail)] = await _kinds(run, "c1")
    assert kind == "approval"
    assert detail.startswith("waits for the approval before stage deploy (")


async def test_a_key_that_another_run_holds_is_named(world: World) -> None:
    holder, waiter = [await world.start(".[key=k]") for _ in range(2)]
    await world.server.concurrency.run_once()
    [(kind, detail)] = await _kinds(waiter, "a1")
    assert kind == "concurrency"
    assert str(holder.id) in detail


async def test_a_pause_before_the_next_attempt_ends_by_itself(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".[retry=2;delay=60000]")
    await world.server.schedule()
    await world.end(await world.begin(agent), StepStatus.FAILED)
    steps = [step for step in (await run.row()).jobs[0].steps if not step.status.terminal]
    found = await world.server.explain.explain(steps[0].id)
    assert [one.kind for one in found.blocking] == ["retry_delay"]


async def test_unknown(world: World) -> None:
    with pytest.raises(NotFound):
        await world.server.explain.explain(UUID(int=7))
