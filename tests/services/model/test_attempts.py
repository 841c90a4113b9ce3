"""Attempts by rule: what is retried, after which pause, how often; and the time limits of jobs and runs."""

from __future__ import annotations

import pytest

from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.execution import Waiting
from arcentra_server.domain.states import FailureReason, RunStatus, StepStatus
from arcentra_server.services.runs import RetryScope
from tests.support.world import World
from tests.support.written import spec_of

THRICE = """
    jobs:
      - name: a
        retry: {max_attempts: 3, on: [script, agent_lost]}
        steps:
          - {name: s1, uses: shell, args: {script: a}}
          - {name: s2, uses: shell, args: {script: a}}
      - {name: b, depends_on: [a], steps: [{name: b1, uses: shell, args: {script: a}}]}
"""


async def test_third_attempt_succeeds(world: World) -> None:
    agent = await world.agent("x", capacity=4)
    run = await world.start(spec_of(THRICE))
    for attempt in (1, 2):
        await world.server.schedule()
        await world.end(await world.begin(agent))
        second = await world.begin(agent)
        assert second.attempt == attempt
        await world.end(second, StepStatus.FAILED)
        assert (await run.states(), await run.status()) == ("QP P", RunStatus.RUNNING)
        assert (await run.row()).jobs[0].attempt == attempt + 1
    assert await world.work(agent) == ["s1", "s2", "b1"]
    assert (await run.states(), await run.status()) == ("SS S", RunStatus.SUCCESS)
    attempts = [(step.name, step.attempt, step.status) for step in (await run.row()).jobs[0].steps]
    assert attempts == [
        ("s1", 1, "SUCCESS"),
        ("s1", 2, "SUCCESS"),
        ("s1", 3, "SUCCESS"),
        ("s2", 1, "FAILED"),
        ("s2", 2, "FAILED"),
        ("s2", 3, "SUCCESS"),
    ]


async def test_attempts_run_out(world: World) -> None:
    agent = await world.agent("x", capacity=4)
    run = await world.start(spec_of(THRICE))
    assert len(await world.work(agent, {"s1": StepStatus.FAILED})) == 3
    assert (await run.states(), await run.status()) == ("Fx x", RunStatus.FAILED)
    await world.server.runs.retry(run.id, RetryScope.FAILED)
    assert len(await world.work(agent, {"s1": StepStatus.FAILED})) == 3, "who retries by hand gets all attempts again"


async def test_other_reason_is_not_retried(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(spec_of(THRICE))
    await world.server.schedule()
    await world.end(await world.begin(agent), StepStatus.FAILED, failure_reason=FailureReason.IMAGE_PULL)
    assert await run.status() is RunStatus.FAILED


async def test_lost_agent_is_retried_elsewhere(world: World) -> None:
    agent, other = await world.agent("x"), await world.agent("y")
    run = await world.start(spec_of(THRICE))
    world.server.links.online.discard(other)
    await world.server.schedule()
    await world.end(await world.begin(agent))
    await world.begin(agent)
    world.server.links.online = {other}
    await world.sql("UPDATE agents SET lease_until = clock_timestamp() - interval '1 s' WHERE id = $1", agent)
    await world.server.reaper.run_once()
    assert await run.states() == "QP P"
    assert await world.work(other) == ["s1", "s2", "b1"]
    assert await run.status() is RunStatus.SUCCESS


async def test_jobs_that_are_lost_together_are_retried_with_their_own_steps(world: World) -> None:
    agent = await world.agent("x", capacity=2)
    run = await world.start("..[retry=2] .[retry=2]")
    await world.server.schedule()
    for dispatch in world.take(agent):
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    await world.sql("UPDATE agents SET lease_until = clock_timestamp() - interval '1 s'")
    await world.server.reaper.run_once()
    assert await run.states() == "QP Q"
    created = await world.value("SELECT count(*) FROM events WHERE resource = 'step' AND previous_status IS NULL")
    assert created == 6, "each attempt is told of once"
    await world.server.agents.heartbeat(agent)
    assert sorted(await world.work(agent)) == ["a1", "a2", "b1"]
    assert await run.status() is RunStatus.SUCCESS


async def test_pause_between_attempts_is_in_the_database(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(
        spec_of("""
        jobs:
          - {name: a, retry: {max_attempts: 2, delay: 1h}, steps: [{name: s1, uses: shell, args: {script: a}}]}
    """)
    )
    assert await world.work(agent, {"s1": StepStatus.FAILED}) == ["s1"]
    job = (await run.row()).jobs[0]
    assert (job.status, job.waits_for, job.steps[-1].waiting_reason) == (RunStatus.PENDING, Waiting.RETRY, "retry")
    assert await world.another_server().dispatch.run_once() == 0
    await world.sql("UPDATE step_queue SET ready_at = ready_at - interval '1 h'")
    assert await world.work(agent) == ["s1"]
    assert await run.status() is RunStatus.SUCCESS


async def test_pause_is_before_the_first_step_that_runs(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(
        spec_of("""
        jobs:
          - name: a
            retry: {max_attempts: 2, delay: 1h}
            steps:
              - {name: s1, uses: shell, when: 'job.attempt == "1"', args: {script: a}}
              - {name: s2, uses: shell, args: {script: a}}
    """)
    )
    assert await world.work(agent, {"s2": StepStatus.FAILED}) == ["s1", "s2"]
    assert await run.states() == "xQ"
    assert (await run.row()).jobs[0].steps[-1].waiting_reason == "retry"
    assert await world.server.schedule() == 0


async def test_stopped_run_is_not_retried(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(spec_of(THRICE))
    await world.server.schedule()
    step = await world.begin(agent)
    await world.server.runs.stop(run.id, None, "enough")
    await world.end(step, StepStatus.FAILED)
    assert (await run.states(), await run.status()) == ("Cx C", RunStatus.CANCELLED) or await run.states() == "Cx x"
    assert await run.status() is RunStatus.CANCELLED


async def test_job_whose_time_is_over_ends_whatever_it_tolerates(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(
        spec_of("""
        jobs:
          - name: a
            timeout: 10m
            steps:
              - {name: s1, uses: shell, continue_on_error: true, args: {script: a}}
              - {name: s2, uses: shell, when: always(), args: {script: a}}
    """)
    )
    await world.server.schedule()
    step = await world.begin(agent)
    await world.sql("UPDATE job_runs SET started_at = started_at - interval '11 min'")
    await world.server.reaper.run_once()
    assert [command.step_run_id for command in world.server.links.cancels][:1] == [step.step_run_id]
    await world.end(step, StepStatus.CANCELLED)
    assert (await run.states(), await run.job_statuses(), await run.status()) == (
        "Tx",
        [RunStatus.TIMEOUT],
        RunStatus.FAILED,
    )


async def test_job_that_waits_for_a_gone_agent_times_out_too(world: World) -> None:
    agent = await world.agent("x", capacity=1)
    run = await world.start(
        spec_of("""
        jobs:
          - name: a
            timeout: 10m
            steps: [{name: s1, uses: shell, args: {script: a}}, {name: s2, uses: shell, args: {script: a}}]
    """)
    )
    await world.server.schedule()
    first = await world.begin(agent)
    await world.server.runs.pause(run.id, None, "", "tester")
    await world.end(first)
    assert await run.states() == "SQ"
    await world.sql("UPDATE job_runs SET started_at = started_at - interval '11 min'")
    await world.server.reaper.run_once()
    assert (await run.states(), await run.job_statuses()) == ("ST", [RunStatus.TIMEOUT])


async def test_run_whose_time_is_over_fails(world: World) -> None:
    agent = await world.agent("x", capacity=1)
    run = await world.start(
        spec_of("""
        timeout: 1h
        jobs:
          - {name: a, steps: [{name: a1, uses: shell, args: {script: a}}]}
          - {name: b, depends_on: [a], when: always(), steps: [{name: b1, uses: shell, args: {script: a}}]}
    """)
    )
    await world.server.schedule()
    step = await world.begin(agent)
    await world.sql("UPDATE pipeline_runs SET started_at = started_at - interval '61 min'")
    await world.server.reaper.run_once()
    await world.end(step, StepStatus.CANCELLED)
    row = await run.row()
    assert (await run.states(), row.status, row.status_reason) == (
        "T C",
        RunStatus.FAILED,
        "the run took longer than its timeout",
    )


async def test_retried_run_has_its_whole_time_again(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(
        spec_of("""
        timeout: 1h
        jobs: [{name: a, steps: [{name: a1, uses: shell, args: {script: a}}]}]
    """)
    )
    await world.work(agent, {"a1": StepStatus.FAILED})
    await world.sql("UPDATE pipeline_runs SET started_at = started_at - interval '2 h'")
    await world.server.runs.retry(run.id, RetryScope.FAILED)
    await world.server.schedule()
    step = await world.begin(agent)
    await world.server.reaper.run_once()
    await world.end(step)
    assert await run.status() is RunStatus.SUCCESS


async def test_retry_of_a_run_that_ended(world: World) -> None:
    agent = await world.agent("x", capacity=4)
    run = await world.start(
        spec_of("""
        stages:
          - name: one
            jobs:
              - {name: a, steps: [{name: a1, uses: shell, args: {script: a}}]}
              - {name: b, steps: [{name: b1, uses: shell, args: {script: a}}]}
              - {name: c, depends_on: [b], steps: [{name: c1, uses: shell, args: {script: a}}]}
          - name: two
            jobs: [{name: d, steps: [{name: d1, uses: shell, args: {script: a}}]}]
    """)
    )
    with pytest.raises(InvalidTransition, match="has not ended"):
        await world.server.runs.retry(run.id, RetryScope.ALL)
    await world.work(agent, {"b1": StepStatus.FAILED})
    assert await run.states() == "S F x x"
    await world.server.runs.retry(run.id, RetryScope.FAILED)
    assert await run.states() == "S Q P P"
    assert await world.work(agent) == ["b1", "c1", "d1"]
    assert (await run.states(), await run.status()) == ("S S S S", RunStatus.SUCCESS)
    with pytest.raises(InvalidTransition, match="ended well"):
        await world.server.runs.retry(run.id, RetryScope.FAILED)
    await world.server.runs.retry(run.id, RetryScope.ALL)
    assert sorted(await world.work(agent)) == ["a1", "b1", "c1", "d1"]
    assert await run.status() is RunStatus.SUCCESS
