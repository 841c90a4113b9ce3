"""Reports of agents: whose, when, how often, and together with others."""

from uuid import UUID

import asyncpg
import pytest

from arcentra_server.domain.errors import InvalidTransition, LeaseLost, NotLeased
from arcentra_server.domain.execution import StepReport
from arcentra_server.domain.states import RunStatus, StepStatus
from tests.support.world import World

RUNNING, SUCCESS, FAILED = StepStatus.RUNNING, StepStatus.SUCCESS, StepStatus.FAILED


async def test_reports_of_one_message_are_taken_in_order_each_with_its_verdict(world: World) -> None:
    agent = await world.agent("x", 3)
    run = await world.start(". . .")
    await world.server.schedule()
    one, two, three = (dispatch.step_run_id for dispatch in world.take(agent))
    verdicts = await world.server.reports.submit(
        [
            StepReport(agent, one, RUNNING),
            StepReport(agent, UUID(int=7), RUNNING),
            StepReport(agent, one, SUCCESS),
            StepReport(agent, two, SUCCESS),  # it was never started
            StepReport(agent, three, RUNNING),
        ]
    )
    assert [type(verdict) for verdict in verdicts] == [
        type(None),
        NotLeased,
        type(None),
        InvalidTransition,
        type(None),
    ]
    assert sorted(await run.states()) == sorted("S Q R")


async def test_what_starts_and_ends_in_one_message_has_a_start(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.server.schedule()
    step_id = world.take_one(agent).step_run_id
    await world.server.reports.submit([StepReport(agent, step_id, status) for status in (RUNNING, SUCCESS)])
    row = await run.row()
    assert (row.status, row.started_at is not None, row.jobs[0].started_at is not None) == (
        RunStatus.SUCCESS,
        True,
        True,
    )


async def test_messages_that_arrive_together_keep_their_order(world: World) -> None:
    agent = await world.agent("x", 25)
    run = await world.start(" ".join("." * 25))
    await world.server.schedule()
    dispatches = world.take(agent)
    futures = [
        world.server.reports.submit([StepReport(agent, dispatch.step_run_id, status)])
        for dispatch in dispatches
        for status in (RUNNING, SUCCESS)
    ]
    assert [await future for future in futures] == [[None]] * 50
    assert await run.status() is RunStatus.SUCCESS


async def test_repeated_reports_are_taken_and_change_nothing(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.server.schedule()
    dispatch = world.take_one(agent)
    for status in (RUNNING, RUNNING, FAILED, FAILED):
        assert await world.report(dispatch, status, exit_code=3) is None
    assert await world.value("SELECT count(*) FROM events WHERE step_run_id = $1", dispatch.step_run_id) == 3
    assert isinstance(await world.report(dispatch, SUCCESS), InvalidTransition)
    assert isinstance(await world.report(dispatch, RUNNING), InvalidTransition)
    assert (await run.step("a1")).exit_code == 3


async def test_report_of_a_lease_that_was_lost_is_refused(world: World) -> None:
    agent, other = await world.agent("x"), await world.agent("y", online=False)
    run = await world.start(".")
    await world.server.schedule()
    stale = world.take_one(agent)
    await world.server.dispatch.refused(agent, stale.lease_id, "no disk")
    assert isinstance(await world.report(stale, RUNNING), LeaseLost)
    await world.sql("UPDATE step_queue SET ready_at = clock_timestamp()")
    world.server.links.online = {other}
    await world.server.schedule()
    assert isinstance(await world.report(stale, RUNNING), LeaseLost)
    dispatch = await world.begin(other)
    assert isinstance(await world.report(stale, SUCCESS), LeaseLost)
    await world.end(dispatch)
    assert isinstance(await world.report(stale, SUCCESS), InvalidTransition)
    assert ((await run.step("a1")).agent_id, await run.status()) == (other, RunStatus.SUCCESS)


async def test_token_and_attempt_of_another_lease_are_refused(world: World) -> None:
    agent = await world.agent("x")
    await world.start(".")
    await world.server.schedule()
    first = world.take_one(agent)
    await world.server.dispatch.refused(agent, first.lease_id, "no disk")
    await world.sql("UPDATE step_queue SET ready_at = clock_timestamp()")
    await world.server.schedule()
    again = world.take_one(agent)
    assert isinstance(await world.report(first, RUNNING), LeaseLost)
    [wrong] = await world.server.reports.submit([StepReport(agent, again.step_run_id, RUNNING, attempt=2)])
    assert isinstance(wrong, LeaseLost)
    assert await world.report(again, RUNNING) is None


async def test_foreign_and_unknown_steps_are_answered_alike(world: World) -> None:
    agent, foreign = await world.agent("x"), await world.agent("y", online=False)
    await world.start(". .")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    queued = await world.value("SELECT step_run_id FROM step_queue")
    verdicts = await world.server.reports.submit(
        [StepReport(foreign, step, SUCCESS) for step in (dispatch.step_run_id, queued, UUID(int=7))]
    )
    assert {(type(verdict), str(verdict)) for verdict in verdicts} == {
        (NotLeased, "step run is not leased to this agent")
    }
    await world.end(dispatch)
    [verdict] = await world.server.reports.submit([StepReport(foreign, dispatch.step_run_id, SUCCESS)])
    assert isinstance(verdict, NotLeased)


async def test_report_that_cannot_be_stored_fails_alone(world: World) -> None:
    agent = await world.agent("x", 3)
    run = await world.start(". . .")
    await world.server.schedule()
    dispatches = world.take(agent)
    for dispatch in dispatches:
        assert await world.report(dispatch, RUNNING) is None
    messages = ["fine", "no \0 in text", "fine"]
    futures = [
        world.server.reports.submit([StepReport(agent, dispatch.step_run_id, FAILED, error_message=message)])
        for dispatch, message in zip(dispatches, messages, strict=True)
    ]
    assert await futures[0] == [None]
    with pytest.raises(asyncpg.DataError):
        await futures[1]
    assert await futures[2] == [None]
    assert sorted(await run.states()) == sorted("F R F")


async def test_reports_of_many_runs_in_one_commit(world: World) -> None:
    agent = await world.agent("x", 40)
    pipeline = await world.pipeline("?. . | .")
    runs = [await world.trigger(pipeline) for _ in range(10)]
    names = {"a1": FAILED, "b1": SUCCESS}
    done = await world.work(agent, names)
    assert len(done) == 40
    assert {await run.status() for run in runs} == {RunStatus.PARTIAL}
    assert await world.value("SELECT total_runs FROM pipelines") == 10
