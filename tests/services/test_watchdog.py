"""Rows that do not fit together are found, put right, and told of. What breaks them here is SQL."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from arcentra_server.db import invariants
from arcentra_server.domain.execution import StepState
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import RunStatus, StepStatus
from arcentra_server.services import watchdog
from tests.support.shapes import shape
from tests.support.world import Run, World

BREACHES = {
    "step_without_lease": "UPDATE leases SET ended_at = clock_timestamp(), end_reason = 'lost'",
    "stray_queue_row": """INSERT INTO step_queue (step_run_id, selector_id, run_id)
                          SELECT id, selector_id, run_id FROM step_runs WHERE status = 'RUNNING'""",
    "slot_without_step": """INSERT INTO leases (id, step_run_id, agent_id)
                            SELECT gen_random_uuid(), s.id, a.id FROM step_runs s, agents a WHERE s.status = 'PENDING'""",
    "step_of_left_agent": """WITH left_agent AS (
                                 UPDATE agents SET deleted_at = clock_timestamp() - interval '61 s', lease_until = NULL)
                             UPDATE leases SET created_at = created_at - interval '2 min'""",
}


async def _running(world: World, spec: str = "..") -> tuple[Run, object]:
    agent = await world.agent("x", capacity=4)
    run = await world.start(spec)
    await world.server.schedule()
    return run, await world.begin(agent)


async def _told(world: World) -> list[str]:
    rows = await world.sql("SELECT message FROM events WHERE message LIKE 'repaired: %' ORDER BY id")
    return [row["message"] for row in rows]


async def _look_at_all(world: World) -> None:
    """Look as the loop does, while the watchdog wants to go on."""
    while True:
        await world.server.watchdog.run_once()
        try:
            async with asyncio.timeout(0.1):
                await world.server.watchdog.wait()
        except TimeoutError:
            return


async def test_what_is_in_order_is_left_alone(world: World) -> None:
    await _running(world, ". .[needs=a] | & .")
    await world.start(".[key=k;retry=3]")
    assert await world.server.watchdog.run_once() == 0
    assert await _told(world) == []


@pytest.mark.parametrize("rule", BREACHES)
async def test_what_is_broken_is_put_right_once(world: World, rule: str) -> None:
    await _running(world)
    await world.sql(BREACHES[rule])
    servers = [world.server, world.another_server()]
    assert await servers[0].watchdog.run_once() == 1
    assert servers[0].repairs == {rule: 1}
    assert len(await _told(world)) == 1
    assert await servers[1].watchdog.run_once() == 0
    await world.check()


async def test_job_whose_time_the_previous_release_does_not_watch_times_out(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(shape(".*", timeouts={"a": 60_000}))
    await world.server.schedule()
    dispatch = await world.begin(agent)
    await world.sql("UPDATE agents SET disabled = true")
    await world.end(dispatch)
    await world.sql("UPDATE step_queue SET job_started = false")  # that release does not know the column
    await world.sql("UPDATE job_runs SET started_at = started_at - interval '66 s'")
    await world.server.reaper.run_once()
    assert await run.states() == "SQ"
    assert await world.server.watchdog.run_once() == 1
    assert world.server.repairs == {"untimed_queue_row": 1}
    await world.server.reaper.run_once()
    assert (await run.states(), await run.status()) == ("ST", RunStatus.FAILED)


async def test_more_than_a_pass_puts_right_is_left_to_one_that_comes_soon(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade thousands of rows of the queue may have to be marked, which the release before did not do."""
    monkeypatch.setattr(watchdog, "LARGEST_BATCH", 2)
    monkeypatch.setattr(watchdog, "MOST_BATCHES", 2)
    monkeypatch.setattr(watchdog, "MORE_SECONDS", 0.0)
    for _ in range(5):
        await world.start(".")
    await world.sql("DELETE FROM step_queue")
    dog = world.server.watchdog
    assert await dog.run_once() == 4
    await dog.wait()
    assert await dog.run_once() == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await dog.wait()


async def test_runs_take_turns_and_a_new_process_sees_all_of_them_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invariants, "MOST_JOBS", 2)
    monkeypatch.setattr(watchdog, "MORE_SECONDS", 0.0)
    runs = sorted([await world.start(".") for _ in range(5)], key=lambda run: run.id)
    dog = world.server.watchdog
    await world.sql("DELETE FROM step_queue")
    for expected in (2, 2):
        assert await dog.run_once() == expected
        await asyncio.wait_for(dog.wait(), 60)
    assert await dog.run_once() == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await dog.wait()
    await world.sql("DELETE FROM step_queue WHERE run_id = $1", runs[-1].id)
    assert [await dog.run_once() for _ in range(3)] == [0, 0, 1]


async def test_runs_that_ended_take_turns_and_those_of_before_a_process_came_are_among_them(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More end than are looked at together, and some while nobody looked: all servers were stopped, say."""
    monkeypatch.setattr(invariants, "MOST_JOBS", 2)
    monkeypatch.setattr(watchdog, "MORE_SECONDS", 0.0)
    async with World(dsn) as world:  # not checked: the runs stay as they were broken
        for minutes_ago in ((10, 0, 0, 0, 0), (1, 0, 0, 0, 0)):
            for minutes in minutes_ago:
                run = await world.start(".")
                await world.sql(
                    "UPDATE pipeline_runs SET status = 'FAILED', finished_at = now() - make_interval(mins => $2) WHERE id = $1",
                    run.id,
                    minutes,
                )
            await _look_at_all(world)
            assert await world.value("SELECT count(*) FROM job_runs WHERE finished_at IS NULL") == 0
        assert world.server.repairs == {"job_of_ended_run": 10}


async def test_runs_that_ended_together_are_looked_at_together(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands at one moment is not parted: the next look begins after it."""
    monkeypatch.setattr(invariants, "MOST_JOBS", 2)
    monkeypatch.setattr(watchdog, "MORE_SECONDS", 0.0)
    async with World(dsn) as world:
        for _ in range(5):
            await world.start(".")
        await world.sql("UPDATE pipeline_runs SET status = 'FAILED', finished_at = now() - interval '5 min'")
        await _look_at_all(world)
        assert world.server.repairs == {"job_of_ended_run": 5}


async def test_full_batches_of_which_nothing_can_be_put_right_are_not_looked_at_again_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LARGEST_BATCH", 1)
    for _ in range(2):
        await world.start(".")
    await world.sql("DELETE FROM step_queue")
    tries: list[object] = []

    def do_nothing(_: Ledger, step: StepState) -> bool:
        tries.append(step.id)
        return False

    monkeypatch.setattr(Ledger, "queue_again", do_nothing)
    assert await world.server.watchdog.run_once() == 0
    assert len(tries) == 1
    monkeypatch.undo()
    assert await world.server.watchdog.run_once() == 2


async def test_step_that_no_agent_holds_has_failed(world: World) -> None:
    run, _ = await _running(world)
    await world.sql(BREACHES["step_without_lease"])
    await world.server.watchdog.run_once()
    assert (await run.states(), await run.status()) == ("Fx", RunStatus.FAILED)
    assert (await run.step("a1")).failure_reason == "agent_lost"


async def test_agent_of_a_step_that_was_ended_is_told_and_given_no_more_than_it_has_room_for(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start("?. .")
    await world.server.schedule()
    started = await world.begin(agent)
    await world.sql(BREACHES["step_without_lease"])
    await world.server.schedule()  # the slot is that of the other job now
    await world.server.watchdog.run_once()
    assert await run.states() == "FQ Q"
    assert [(told.agent_id, told.step_run_id) for told in world.server.links.cancels] == [(agent, started.step_run_id)]
    await world.end(await world.begin(agent))
    assert await world.work(agent) == ["a2"]


async def test_step_of_an_agent_that_left_just_now_is_for_the_reaper(world: World) -> None:
    run, _ = await _running(world)
    await world.sql("UPDATE agents SET deleted_at = clock_timestamp(), lease_until = NULL")
    assert await world.server.watchdog.run_once() == 0
    await world.server.reaper.run_once()
    assert await run.states() == "Fx"


async def test_step_that_nobody_has_is_queued_again(world: World) -> None:
    run = await world.start(".")
    await world.sql("DELETE FROM step_queue")
    assert await world.server.watchdog.run_once() == 1
    assert world.server.repairs == {"step_not_in_queue": 1}
    await world.work(await world.agent("x"))
    assert await run.status() is RunStatus.SUCCESS


async def test_what_is_left_of_an_ended_run_is_cancelled(dsn: str) -> None:
    async with World(dsn) as world:  # not checked: the run stays as it was broken
        agent = await world.agent("x")
        run = await world.start("..[key=k] .[needs=a]")
        await world.server.concurrency.run_once()
        await world.server.schedule()
        started = await world.begin(agent)
        await world.sql("UPDATE pipeline_runs SET status = 'FAILED', finished_at = clock_timestamp()")
        assert await world.server.watchdog.run_once() == 2
        assert (await run.states(), await run.status()) == ("CC C", RunStatus.FAILED)
        assert [(job.status, job.error_message) for job in (await run.row()).jobs] == [
            (RunStatus.CANCELLED, "repaired: its run had ended")
        ] * 2
        assert await world.value("SELECT count(*) FROM leases WHERE ended_at IS NULL") == 0
        assert await world.value("SELECT count(*) FROM step_queue") == 0
        assert await world.value("SELECT count(*) FROM concurrency_claims") == 0
        assert [told.step_run_id for told in world.server.links.cancels] == [started.step_run_id]
        assert await world.server.watchdog.run_once() == 0


async def test_job_and_run_that_were_left_as_they_were_go_on(dsn: str) -> None:
    async with World(dsn) as world:  # not checked: what is broken here, the events do not know
        agent = await world.agent("x")
        run = await world.start(". | .")
        await world.server.schedule()
        await world.end(await world.begin(agent))
        before = await run.states()
        await world.sql("UPDATE job_runs SET status = 'RUNNING', finished_at = NULL WHERE stage_index = 0")
        await world.sql("UPDATE pipeline_runs SET completed_jobs = 0, running_jobs = 1")
        await world.sql("UPDATE run_stages SET open_jobs = 1 WHERE stage_index = 0")
        assert await world.server.watchdog.run_once() == 1
        assert (await run.states(), await run.job_statuses()) == (before, [RunStatus.SUCCESS, RunStatus.PENDING])
        await world.work(agent)
        assert await run.status() is RunStatus.SUCCESS
        await world.sql("UPDATE pipeline_runs SET status = 'RUNNING', finished_at = NULL")
        assert await world.server.watchdog.run_once() == 1
        assert await run.status() is RunStatus.SUCCESS
        assert len(await _told(world)) == 2


async def test_row_that_rests_takes_no_place_of_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LARGEST_BATCH", 1)
    runs = [await world.start(".") for _ in range(2)]
    await world.sql("DELETE FROM step_queue")
    first, queue_again = min([await run.step_id("a1") for run in runs]), Ledger.queue_again

    def fail(self: Ledger, step: StepState) -> bool:
        if step.id == first:
            raise ZeroDivisionError
        return queue_again(self, step)

    monkeypatch.setattr(Ledger, "queue_again", fail)
    for _ in range(3):
        with pytest.raises(ExceptionGroup):
            await world.server.watchdog.run_once()
    assert await world.server.watchdog.run_once() == 1
    monkeypatch.undo()
    assert await world.another_server().watchdog.run_once() == 1


async def test_log_names_what_was_put_right_and_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was in order by the time its run was locked was found, and not repaired."""
    run = await world.start(". .")
    await world.sql("DELETE FROM step_queue")
    other, queue_again = await run.step_id("b1"), Ledger.queue_again
    monkeypatch.setattr(Ledger, "queue_again", lambda self, step: step.id != other and queue_again(self, step))
    with capture_logs() as logs:
        assert await world.server.watchdog.run_once() == 1
    assert [entry["rows"] for entry in logs if entry["event"] == "repaired"] == [[str(await run.step_id("a1"))]]
    monkeypatch.undo()
    assert await world.server.watchdog.run_once() == 1


async def test_key_of_an_ended_job_is_given_back(world: World) -> None:
    agent = await world.agent("x")
    first = await world.start(".[key=k]")
    await world.server.concurrency.run_once()
    claim = await world.sql("SELECT * FROM concurrency_claims")
    await world.work(agent, {"a1": StepStatus.FAILED})
    columns = ", ".join(claim[0].keys())
    places = ", ".join(f"${place}" for place in range(1, len(claim[0]) + 1))
    # The names are those of the columns.
    await world.sql(f"INSERT INTO concurrency_claims ({columns}) VALUES ({places})", *claim[0].values())  # noqa: S608
    second = await world.start(".[key=k]")
    await world.server.concurrency.run_once()
    assert await second.states() == "P"
    assert await world.server.watchdog.run_once() == 1
    assert world.server.repairs == {"key_of_ended_job": 1}
    await world.server.concurrency.run_once()
    assert (await first.status(), await second.states()) == (RunStatus.FAILED, "Q")
