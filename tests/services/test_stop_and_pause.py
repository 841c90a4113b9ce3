"""Stop, pause, resume, and the cancellation of single steps and jobs."""

import asyncio
from uuid import UUID

import pytest

from arcentra_server.domain.definition import StepSpec
from arcentra_server.domain.errors import InvalidTransition, NotFound
from arcentra_server.domain.execution import CancelCommand
from arcentra_server.domain.states import RunStatus, StepStatus
from arcentra_server.services.step_runs import AddedStep
from tests.support.world import World

UNKNOWN = UUID(int=7)


async def test_stop_cancels_what_waits_and_asks_what_runs(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".. . | .")
    await world.server.schedule()
    dispatch = world.take_one(agent)
    assert await world.report(dispatch, StepStatus.RUNNING) is None
    await world.server.runs.stop(run.id, run.pipeline_id, "enough")
    row = await run.row()
    assert (row.status, row.status_reason, row.finished_at) == (RunStatus.RUNNING, "enough", None)
    assert world.server.links.cancels == [CancelCommand(agent, dispatch.step_run_id, "enough")]
    assert await world.value("SELECT count(*) FROM step_queue") == 0
    await world.server.runs.stop(run.id, None, "again")
    await world.end(dispatch)  # it succeeded before it was told: it counts as cancelled all the same
    assert (await run.status(), (await world.server.steps.get(dispatch.step_run_id)).status) == (
        RunStatus.CANCELLED,
        StepStatus.CANCELLED,
    )
    await world.server.runs.stop(run.id, None, "again")


async def test_stop_takes_back_what_was_leased_and_not_started(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.server.schedule()
    dispatch = world.take_one(agent)
    await world.server.runs.stop(run.id, None, "enough")
    assert (await run.states(), await run.status()) == ("C", RunStatus.CANCELLED)
    assert world.server.links.cancels == [CancelCommand(agent, dispatch.step_run_id, "enough")]
    assert isinstance(await world.report(dispatch, StepStatus.RUNNING), InvalidTransition)
    assert await world.server.schedule() == 0


async def test_stop_of_what_is_not_there_or_has_ended(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    with pytest.raises(NotFound):
        await world.server.runs.stop(UNKNOWN, None, "")
    with pytest.raises(NotFound):
        await world.server.runs.stop(run.id, UNKNOWN, "")
    await world.work(agent)
    with pytest.raises(InvalidTransition):
        await world.server.runs.stop(run.id, None, "")


async def test_pause_holds_the_queue_and_resume_lets_it_go(world: World) -> None:
    agent = await world.agent("x", 2)
    run = await world.start(".")
    await world.server.runs.pause(run.id, None, "wait", "alice")
    await world.server.runs.pause(run.id, None, "wait again", "alice")
    assert await world.server.schedule() == 0
    row, step = await run.row(), await run.step("a1")
    assert (row.status, row.status_reason, step.waiting_reason) == (RunStatus.PAUSED, "wait", "paused")
    await world.server.runs.resume(run.id, None, "on", "alice")
    await world.server.runs.resume(run.id, None, "on", "alice")
    assert await run.status() is RunStatus.PENDING
    assert await world.work(agent) == ["a1"]
    actors = await world.sql(
        "SELECT status, actor FROM events WHERE run_id = $1 AND resource = 'run' ORDER BY id", run.id
    )
    assert [tuple(row) for row in actors][1:3] == [("PAUSED", "alice"), ("PENDING", "alice")]


async def test_pause_lets_what_runs_end_and_holds_the_next_step_and_stage(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".. | .")
    await world.server.schedule()
    dispatch = world.take_one(agent)
    assert await world.report(dispatch, StepStatus.RUNNING) is None
    await world.server.runs.pause(run.id, None, "", "alice")
    await world.end(dispatch)
    assert (await run.states(), await run.status()) == ("SQ P", RunStatus.PAUSED)
    assert await world.server.schedule() == 0
    await world.check()
    await world.server.runs.resume(run.id, None, "", "alice")
    assert await run.status() is RunStatus.RUNNING
    assert await world.work(agent) == ["a2", "b1"]


async def test_paused_run_may_be_stopped_and_a_stopped_one_not_paused(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(". .")
    await world.server.schedule()
    dispatch = world.take_one(agent)
    assert await world.report(dispatch, StepStatus.RUNNING) is None
    await world.server.runs.pause(run.id, None, "", "alice")
    await world.server.runs.stop(run.id, None, "enough")
    assert await run.status() is not RunStatus.PAUSED
    with pytest.raises(InvalidTransition):
        await world.server.runs.pause(run.id, None, "", "alice")
    await world.end(dispatch, StepStatus.CANCELLED)
    assert await run.status() is RunStatus.CANCELLED
    for change in (world.server.runs.pause, world.server.runs.resume):
        with pytest.raises(InvalidTransition):
            await change(run.id, None, "", "alice")


async def test_cancel_of_a_queued_step_ends_it_at_once(world: World) -> None:
    run = await world.start(".. .")
    step = await run.step_id("a1")
    await world.server.steps.cancel(step, "not wanted")
    await world.server.steps.cancel(step, "not wanted")
    assert await run.states() == "Cx Q"
    assert (await run.step("a1")).error_message == "not wanted"


async def test_cancel_of_a_running_step_asks_its_agent(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start("..")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    for _ in range(2):
        await world.server.steps.cancel(dispatch.step_run_id, "not wanted")
    assert await run.states() == "RP"
    assert (await run.step("a1")).cancel_requested
    assert set(map(str, world.server.links.cancels)) == {str(CancelCommand(agent, dispatch.step_run_id, "not wanted"))}
    await world.end(dispatch, StepStatus.FAILED)
    assert (await run.states(), await run.status()) == ("Cx", RunStatus.CANCELLED)
    assert (await run.step("a1")).failure_reason == "cancelled"


async def test_cancel_of_a_step_that_ended_otherwise_is_refused(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.work(agent)
    with pytest.raises(InvalidTransition):
        await world.server.steps.cancel(await run.step_id("a1"), "")
    with pytest.raises(NotFound):
        await world.server.steps.cancel(UNKNOWN, "")


async def test_cancel_of_a_step_whose_turn_has_not_come_ends_the_job_with_the_running_one(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start("...")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    await world.server.steps.cancel(await run.step_id("a2"), "not wanted")
    assert await run.states() == "RCx"
    await world.end(dispatch)
    assert (await run.states(), await run.status()) == ("SCx", RunStatus.CANCELLED)


async def test_cancel_of_a_job(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".. . | .")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    held = (await world.server.steps.get(dispatch.step_run_id)).job_name
    other = "b" if held == "a" else "a"
    for _ in range(2):
        await world.server.runs.cancel_job(await run.job_id(other), "not wanted")
    await world.server.runs.cancel_job(await run.job_id(held), "not wanted")
    await world.end(dispatch, StepStatus.CANCELLED)
    assert await run.job_statuses() == [RunStatus.CANCELLED, RunStatus.CANCELLED, RunStatus.SKIPPED]
    assert await run.status() is RunStatus.CANCELLED
    with pytest.raises(NotFound):
        await world.server.runs.cancel_job(UNKNOWN, "")
    with pytest.raises(InvalidTransition):
        await world.server.runs.cancel_job(await run.job_id("c"), "")


async def test_claims_that_race_with_cancellations(world: World) -> None:
    """Whoever is first: a cancelled step has no lease, and no step is left behind."""
    await world.agent("x", 1_000)
    pipeline = await world.pipeline(" ".join("." * 4))
    for _ in range(15):
        runs = [await world.trigger(pipeline) for _ in range(2)]
        steps = [step.id for run in runs for job in (await run.row()).jobs for step in job.steps]
        await asyncio.gather(
            world.server.dispatch.run_once(),
            *(world.server.steps.cancel(step, "race") for step in steps[:6]),
            world.server.runs.stop(runs[1].id, None, "race"),
        )
        await world.check()
    left = await world.sql(
        "SELECT 1 FROM step_runs s JOIN leases l ON l.step_run_id = s.id WHERE s.status <> 'QUEUED' AND l.ended_at IS NULL"
    )
    assert left == []


async def test_pause_that_races_with_claims_and_ends(world: World) -> None:
    agent = await world.agent("x", 100)
    pipeline = await world.pipeline("... | .")
    for _ in range(10):
        run = await world.trigger(pipeline)
        await world.server.schedule()
        dispatch = await world.begin(agent)
        await asyncio.gather(
            world.end(dispatch),
            world.server.runs.pause(run.id, None, "", "alice"),
            world.server.dispatch.run_once(),
        )
        await world.check()
        await world.server.runs.resume(run.id, None, "", "alice")
        assert len(await world.work(agent)) == 3
        assert await run.status() is RunStatus.SUCCESS


async def test_run_whose_time_is_over_takes_nothing_new_and_is_not_paused(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start("..")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    await world.sql("UPDATE pipeline_runs SET started_at = clock_timestamp() - interval '1 h', timeout_ms = 1000")
    await world.server.reaper.run_once()
    assert await run.status() is RunStatus.RUNNING
    with pytest.raises(InvalidTransition, match="being ended"):
        await world.server.runs.pause(run.id, None, "", "tester")
    with pytest.raises(InvalidTransition):
        await world.server.steps.create(AddedStep(StepSpec("new", uses="shell"), run.id, job_name="new"), "tester")
    await world.end(dispatch)
    assert (await run.states(), await run.status()) == ("Tx", RunStatus.FAILED)
    with pytest.raises(InvalidTransition, match="pipeline run already finished"):
        await world.server.runs.pause(run.id, None, "", "tester")
