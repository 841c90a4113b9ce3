"""Leasing within a change: the commit that brings work, or frees a slot, gives it out as well."""

from __future__ import annotations

import asyncio

import pytest

from arcentra_server.db.engine import new_id
from arcentra_server.domain.execution import Dispatch, StepReport
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import StepStatus, TriggerType
from tests.support.processes import until
from tests.support.shapes import shape, wants
from tests.support.world import World

_WITH_WHAT_ENDED = """
    SELECT new.xmin = old.xmin FROM leases new, leases old WHERE new.ended_at IS NULL AND old.ended_at IS NOT NULL
"""
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
# A row that does not fit to the others, so that the claim fails.
_LEASED_ALREADY = (
    "INSERT INTO leases (id, step_run_id, agent_id) SELECT gen_random_uuid(), step_run_id, $1 FROM step_queue"
)


@pytest.fixture
def placing(world: World) -> World:
    """A world in which changes lease what waits."""
    world.server.store.place_with(world.server.dispatch)
    return world


async def _rung(world: World) -> bool:
    """Answer whether a pass of the scheduler is wanted."""
    try:
        async with asyncio.timeout(0):
            await world.server.bell.wait()
    except TimeoutError:
        return False
    return True


async def test_run_is_stored_and_leased_in_one_transaction(placing: World) -> None:
    agent = await placing.agent("x", 2)
    await placing.start(".")
    await placing.server.schedule()  # selectors are known from here on
    placing.take(agent)
    await placing.start(".")
    assert len(placing.take(agent)) == 1
    assert not await _rung(placing)
    assert await placing.value(
        "SELECT bool_and(s.xmin = l.xmin) FROM leases l JOIN step_runs s ON s.id = l.step_run_id "
        "WHERE s.created_at = (SELECT max(created_at) FROM step_runs)"
    )
    await placing.check()


async def test_slot_is_filled_by_the_commit_that_frees_it(placing: World) -> None:
    agent = await placing.agent("x")
    await placing.start(". .")
    assert await placing.server.schedule() == 1
    step = await placing.begin(agent)
    assert placing.take(agent) == []
    await placing.end(step)
    assert len(placing.take(agent)) == 1
    assert await placing.value(_WITH_WHAT_ENDED)
    assert not await _rung(placing)
    await placing.check()


async def test_start_that_frees_nothing_wants_no_pass(placing: World) -> None:
    agent = await placing.agent("x")
    await placing.start(".")
    await placing.server.schedule()
    await placing.begin(agent)
    assert not await _rung(placing)


async def test_slot_is_filled_with_what_was_queued_since_the_queue_was_read(placing: World) -> None:
    agent, other = await placing.agent("x"), placing.another_server()
    await placing.start(".")
    await placing.server.schedule()
    step = await placing.begin(agent)
    other.links.online = set()
    pipeline = await placing.pipeline(".")
    await other.runs.trigger(pipeline, Trigger(TriggerType.MANUAL, "tester"))
    assert placing.take(agent) == []
    await placing.end(step)
    assert len(placing.take(agent)) == 1


async def test_what_another_server_queued_since_all_was_read_is_left_to_a_pass(placing: World) -> None:
    agent, other = await placing.agent("x", 2), placing.another_server()
    await placing.start(".")
    await placing.server.schedule()
    step = await placing.begin(agent)
    assert await placing.server.dispatch.run_once() == 0
    await other.runs.trigger(await placing.pipeline("."), Trigger(TriggerType.MANUAL, "tester"))
    await placing.end(step)
    assert placing.take(agent) == []
    assert await placing.server.schedule() == 1


async def test_selector_that_is_not_known_yet_is_left_to_a_pass(placing: World) -> None:
    agent = await placing.agent("x", os="linux")
    await placing.server.schedule()
    await placing.start(shape(".", {"a": wants(os="linux")}))
    assert placing.take(agent) == []
    assert await _rung(placing)
    assert await placing.server.schedule() == 1


async def test_what_cannot_be_leased_keeps_no_report_from_being_taken(placing: World) -> None:
    agent = await placing.agent("x")
    run = await placing.start(". .")
    await placing.server.schedule()
    step = await placing.begin(agent)
    other = await placing.agent("y", online=False)
    await placing.sql(_LEASED_ALREADY, other)
    assert await placing.report(step, StepStatus.SUCCESS) is None
    assert (await run.states()).split() == ["S", "Q"]
    await placing.sql("DELETE FROM leases WHERE agent_id = $1", other)
    assert await _rung(placing)
    assert await placing.server.schedule() == 1
    await placing.check()


async def test_agent_that_pulls_gets_what_others_have_no_room_for(placing: World) -> None:
    agent, pulling = await placing.agent("x"), await placing.agent("y", online=False)
    await placing.start(".")
    await placing.server.schedule()
    await placing.end(await placing.begin(agent))
    async with asyncio.TaskGroup() as group:
        call = group.create_task(placing.server.dispatch.fetch(pulling, 1, 30))
        await placing.server.bell.wait()
        assert await placing.server.schedule() == 0
        await placing.start(". .")
        assert len(placing.take(agent)) == 1
        assert await _rung(placing)
        assert await placing.server.schedule() == 1
    assert len(call.result()) == 1
    await placing.check()


async def test_urgent_work_that_came_while_all_were_full_gets_the_next_slot(placing: World) -> None:
    agent = await placing.agent("x")
    for _ in range(12):
        await placing.start(".")
    await placing.server.schedule()
    for _ in range(6):
        await placing.end(await placing.begin(agent))
        await placing.server.schedule()
    running = await placing.begin(agent)
    urgent = await placing.start(".")
    await placing.sql("UPDATE step_queue SET priority = 9 WHERE run_id = $1", urgent.id)
    assert await placing.server.schedule() == 0
    await placing.end(running)
    await placing.server.schedule()
    assert (await placing.begin(agent)).step_run_id == (await urgent.row()).jobs[0].steps[0].id
    await placing.check()


async def test_slot_that_comes_free_after_new_work_is_filled_at_once(placing: World) -> None:
    agent = await placing.agent("x")
    await placing.start(".")
    await placing.server.schedule()
    step = await placing.begin(agent)
    assert await placing.server.schedule() == 0
    await placing.start(".")
    assert await placing.server.schedule() == 0
    await placing.end(step)
    assert await _rung(placing)
    assert await placing.server.schedule() == 1


async def test_run_that_goes_on_is_new_work(placing: World) -> None:
    agent = await placing.agent("x")
    paused = await placing.start(".")
    await placing.server.runs.pause(paused.id, None, "", "alice")
    await placing.start(".")
    await placing.server.schedule()
    step = await placing.begin(agent)
    await placing.server.runs.resume(paused.id, None, "", "alice")
    assert await placing.server.schedule() == 0
    await placing.end(step)
    assert await _rung(placing)
    assert await placing.server.schedule() == 1


async def test_slots_of_agents_that_push_and_pull_freed_together_ring(placing: World) -> None:
    pushed, pulling = await placing.agent("x"), await placing.agent("y", online=False)
    await placing.start(".")
    await placing.server.schedule()
    one = await placing.begin(pushed)
    await placing.start(".")
    [other] = await placing.server.dispatch.fetch(pulling, 1, 0)
    await placing.report(other, StepStatus.RUNNING)
    for _ in range(3):
        await placing.start(".")
    async with asyncio.TaskGroup() as group:
        call = group.create_task(placing.server.dispatch.fetch(pulling, 1, 30))
        await placing.server.bell.wait()
        assert await placing.server.schedule() == 0
        ends = [_end_of(step) for step in (one, other)]
        async with asyncio.TaskGroup() as reports:
            for end in ends:
                reports.create_task(_settled(placing, end))
        assert await _rung(placing)
        while not call.done():
            await placing.server.schedule()
            await asyncio.sleep(0.05)
    assert len(call.result()) == 1


def _end_of(step: Dispatch) -> StepReport:
    return StepReport(
        step.agent_id, step.step_run_id, StepStatus.SUCCESS, attempt=step.attempt, lease_token=step.lease_token
    )


async def _settled(world: World, end: StepReport) -> None:
    assert await world.server.reports.submit([end]) == [None]


async def test_change_does_not_wait_behind_a_pass_whose_turn_comes(placing: World) -> None:
    await placing.agent("x")
    dispatch = placing.server.dispatch
    await dispatch.run_once()  # nobody has to look for new work now
    ledger = Ledger(new_id, lambda *_: True)
    ledger.stored_queued = {new_id(): 1}
    async with asyncio.TaskGroup() as group, placing.database.transaction() as tx:
        async with dispatch._pass:
            waits = group.create_task(dispatch.run_once())
            await asyncio.sleep(0)
        # Free, and promised to the pass, which has its turn with the next one of the loop.
        assert not dispatch._pass.locked()
        async with dispatch.placing(tx, ledger) as placed:
            assert not placed.settled
        assert not waits.done()


async def test_report_that_waits_for_the_counters_of_its_pipeline_has_no_agent_in_hand(placing: World) -> None:
    agent = await placing.agent("x")
    pipeline = await placing.pipeline(".")
    for _ in range(3):
        await placing.trigger(pipeline)
    await placing.server.schedule()
    step = await placing.begin(agent)
    async with asyncio.TaskGroup() as group, placing.database.transaction() as held:
        await held.fetch("SELECT 1 FROM pipelines WHERE id = $1 FOR UPDATE", pipeline)
        group.create_task(placing.end(step))
        await until(lambda: placing.value(_WAITING))
        async with placing.database.transaction() as other:
            await other.fetch("SELECT 1 FROM agents WHERE id = $1 FOR UPDATE NOWAIT", agent)
    assert len(placing.take(agent)) == 1
