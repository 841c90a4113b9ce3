"""Retry: new attempts beside the old ones, and jobs and stages that get their turn again."""

from uuid import UUID

import pytest

from arcentra_server.domain.errors import InvalidTransition, NotFound
from arcentra_server.domain.states import RunStatus, StepStatus
from tests.support.world import World, step_name

FAILED = StepStatus.FAILED


async def test_retry_runs_the_job_again_and_what_was_skipped_because_of_it(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start("... | . | .")
    await world.work(agent, {"a2": FAILED})
    assert (await run.states(), await run.status()) == ("SFx x x", RunStatus.FAILED)
    old = await run.step("a2")
    new_id = await world.server.steps.retry(old.id)
    new = await run.step("a2")
    assert (new.id, new.attempt, new_id != old.id) == (new_id, 2, True)
    assert (await run.states(), await run.status()) == ("QPP P P", RunStatus.RUNNING)
    assert (await world.server.steps.get(old.id)).superseded
    [pipeline] = await world.sql("SELECT total_runs, success_runs, failed_runs FROM pipelines")
    assert tuple(pipeline) == (1, 0, 0)
    await world.check()
    assert await world.work(agent) == ["a1", "a2", "a3", "b1", "c1"]
    row = await run.row()
    assert (row.status, row.completed_jobs, row.failed_jobs) == (RunStatus.SUCCESS, 3, 0)
    assert [(step.name, step.attempt) for step in row.jobs[0].steps] == [
        (name, attempt) for name in ("a1", "a2", "a3") for attempt in (1, 2)
    ]
    [pipeline] = await world.sql("SELECT total_runs, success_runs, failed_runs, last_status FROM pipelines")
    assert tuple(pipeline) == (1, 1, 0, "SUCCESS")


async def test_retry_that_fails_again_may_be_retried_again(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(". | .")
    first = await run.step_id("a1")
    await world.work(agent, {"a1": FAILED})
    second = await world.server.steps.retry(first)
    await world.work(agent, {"a1": FAILED})
    assert (await run.states(), await run.status()) == ("F x", RunStatus.FAILED)
    with pytest.raises(InvalidTransition):
        await world.server.steps.retry(first)
    await world.server.steps.retry(second)
    await world.work(agent)
    assert (await run.status(), (await run.step("a1")).attempt) == (RunStatus.SUCCESS, 3)


async def test_retry_of_what_has_not_ended_or_is_not_there(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start("..")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    with pytest.raises(InvalidTransition):
        await world.server.steps.retry(dispatch.step_run_id)
    with pytest.raises(NotFound):
        await world.server.steps.retry(UUID(int=7))
    await world.end(dispatch, FAILED)
    await world.server.steps.retry(await run.step_id("a2"))  # skipped, and run again with its job
    assert await world.work(agent) == ["a1", "a2"]


async def test_old_attempt_is_left_alone_by_late_reports(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.server.schedule()
    old = await world.begin(agent)
    await world.end(old, FAILED)
    await world.server.steps.retry(old.step_run_id)
    assert await world.report(old, FAILED) is None
    assert isinstance(await world.report(old, StepStatus.SUCCESS), InvalidTransition)
    assert await run.states() == "Q"
    await world.work(agent)


async def test_other_failures_of_the_stage_still_hold_the_next_one(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(". . | .")
    await world.work(agent, {"a1": FAILED, "b1": FAILED})
    await world.server.steps.retry(await run.step_id("a1"))
    await world.work(agent)
    assert (await run.states(), await run.status()) == ("S F x", RunStatus.FAILED)
    await world.server.steps.retry(await run.step_id("b1"))
    assert await world.work(agent) == ["b1", "c1"]
    assert await run.status() is RunStatus.SUCCESS


@pytest.mark.parametrize("again", [StepStatus.SUCCESS, FAILED])
async def test_retry_before_a_stage_that_ended_reaches_the_stages_behind_it(world: World, again: StepStatus) -> None:
    agent = await world.agent("x")
    run = await world.start(". | . | . | .")
    await world.work(agent, {"c1": FAILED})
    assert await run.states() == "S S F x"
    await world.server.steps.retry(await run.step_id("a1"))
    await world.work(agent, {"a1": again})
    assert (await run.status()).terminal
    assert await run.states() == f"{again.value[0]} S F x"


async def test_retry_while_the_run_goes_on(world: World) -> None:
    agent = await world.agent("x", 2)
    run = await world.start(". . | .")
    await world.server.schedule()
    dispatches = {step_name(dispatch): dispatch for dispatch in world.take(agent)}
    for dispatch in dispatches.values():
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    await world.end(dispatches["a1"], FAILED)
    await world.server.steps.retry(dispatches["a1"].step_run_id)
    await world.check()
    await world.end(dispatches["b1"])
    assert await run.states() == "Q S P"
    assert await world.work(agent) == ["a1", "c1"]
    assert await run.status() is RunStatus.SUCCESS


async def test_retry_of_a_stopped_run(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(". . | .")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    name = step_name(dispatch)
    waiting = await run.step_id("b1" if name == "a1" else "a1")
    await world.server.runs.stop(run.id, None, "enough")
    with pytest.raises(InvalidTransition):  # stop is final: it cannot be undone while it goes on
        await world.server.steps.retry(waiting)
    await world.end(dispatch, StepStatus.CANCELLED)
    await world.server.steps.retry(waiting)
    await world.work(agent)
    assert (await run.status()).terminal


async def test_retry_in_a_paused_run_waits(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(". . | .")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    await world.end(dispatch, FAILED)
    await world.server.runs.pause(run.id, None, "", "alice")
    await world.server.steps.retry(dispatch.step_run_id)
    assert await world.server.schedule() == 0
    await world.check()
    await world.server.runs.resume(run.id, None, "", "alice")
    assert len(await world.work(agent)) == 3
    assert await run.status() is RunStatus.SUCCESS
