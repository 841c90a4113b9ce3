"""What time does. Times are set in the rows: nothing here waits."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from arcentra_server.db import deadlines
from arcentra_server.db.engine import Tx
from arcentra_server.domain.errors import LeaseLost, NotLeased
from arcentra_server.domain.execution import CancelCommand, RunState, StepState
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import AgentStatus, GateState, RunStatus, StepStatus
from arcentra_server.services import reaper
from arcentra_server.services.runs import JobReport
from tests.support.shapes import shape
from tests.support.world import LEASE_SECONDS, Run, World

_SILENT = "UPDATE agents SET lease_until = clock_timestamp() - interval '1 s' WHERE id = $1"
_OLD_LEASES = "UPDATE leases SET created_at = created_at - interval '16 s' WHERE ended_at IS NULL"
_LONG_AGO = "UPDATE step_runs SET started_at = started_at - interval '66 s' WHERE status = 'RUNNING'"


async def _lapse(world: World, agent: UUID) -> None:
    world.server.links.online.discard(agent)
    await world.sql(_SILENT, agent)
    await world.server.reaper.run_once()


async def test_nothing_is_overdue(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(shape("..", timeouts={"a1": 60_000}))
    await world.server.schedule()
    await world.begin(agent)
    await world.server.reaper.run_once()
    assert (await run.states(), world.server.links.cancels) == ("RP", [])


async def test_silent_agent_loses_what_it_runs_and_what_it_has_not_started(world: World) -> None:
    agent = await world.agent("x", 2)
    run = await world.start(".. . | .")
    await world.server.schedule()
    one, two = world.take(agent)
    started = one if (await world.server.steps.get(one.step_run_id)).job_name == "a" else two
    assert await world.report(started, StepStatus.RUNNING) is None
    await _lapse(world, agent)
    assert await run.states() == "Fx Q P"
    assert (await run.step("a1")).failure_reason == "agent_lost"
    [row] = await world.server.fleet.list_all()
    assert (row.status.value, row.running) == ("OFFLINE", 0)
    assert isinstance(await world.report(started, StepStatus.SUCCESS), Exception)
    assert isinstance(await world.report(two if started is one else one, StepStatus.RUNNING), LeaseLost)
    told = await world.sql(
        "SELECT status, previous_status FROM events WHERE resource = 'agent' ORDER BY id DESC LIMIT 1"
    )
    assert tuple(told[0]) == ("OFFLINE", "IDLE")
    other = await world.agent("y")
    assert await world.work(other) == ["b1"]
    assert await run.status() is RunStatus.FAILED


async def test_silent_agent_is_told_of_once_and_comes_back(world: World) -> None:
    agent = await world.agent("x")
    for _ in range(2):
        await _lapse(world, agent)
    assert await world.value("SELECT count(*) FROM events WHERE status = 'OFFLINE' AND resource = 'agent'") == 2
    await world.server.agents.heartbeat(agent)
    [row] = await world.server.fleet.list_all()
    assert row.status.value == "IDLE"


async def test_agent_that_is_heard_of_in_time_keeps_its_steps(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.server.schedule()
    await world.begin(agent)
    await world.sql(_SILENT, agent)
    await world.server.agents.heartbeat(agent)
    await world.server.reaper.run_once()
    assert await run.states() == "R"


async def test_cancelled_step_of_a_silent_agent_is_cancelled(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    await world.server.steps.cancel(dispatch.step_run_id, "not wanted")
    await _lapse(world, agent)
    assert (await run.states(), await run.status()) == ("C", RunStatus.CANCELLED)


async def test_tolerated_loss_does_not_go_on_with_the_silent_agent(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start("?. | .")
    await world.server.schedule()
    await world.begin(agent)
    await _lapse(world, agent)
    assert await world.value("SELECT count(*) FROM leases WHERE ended_at IS NULL") == 0
    assert world.take(agent) == []
    assert (await run.step("a1")).failure_reason == "agent_lost"
    await _lapse(world, agent)
    assert (await run.step("a2")).status.terminal


async def test_step_that_is_not_started_in_time_goes_back_to_the_queue(world: World) -> None:
    agent, other = await world.agent("x"), await world.agent("y", online=False)
    run = await world.start(".")
    await world.server.schedule()
    await world.server.reaper.run_once()
    assert (await run.step("a1")).leased
    await world.sql(_OLD_LEASES)
    await world.server.reaper.run_once()
    assert not (await run.step("a1")).leased
    world.server.links.online = {other}
    assert await world.server.schedule() == 0  # a little later, lest it goes to the same agent at once
    await world.sql("UPDATE step_queue SET ready_at = clock_timestamp()")
    assert await world.work(other) == ["a1"]
    assert isinstance(await world.report(world.take_one(agent), StepStatus.RUNNING), Exception)


async def test_job_of_an_agent_that_fell_silent_between_its_steps_ends(world: World) -> None:
    """Its next step was leased, not started in time, and went back to the queue before the agent's lease lapsed."""
    agent = await world.agent("x")
    run = await world.start(".. | .")
    await world.server.schedule()
    await world.end(await world.begin(agent))
    world.take_one(agent)
    world.server.links.online.discard(agent)
    await world.sql(_OLD_LEASES)
    await world.server.reaper.run_once()
    assert await run.states() == "SQ P"
    await _lapse(world, agent)
    await world.server.reaper.run_once()
    assert (await run.status()).terminal


async def test_job_of_a_silent_agent_ends_with_the_step_it_has_not_started(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start("... | .")
    await world.server.schedule()
    await world.end(await world.begin(agent))
    await _lapse(world, agent)
    assert (await run.status()).terminal
    assert (await run.step("a2")).failure_reason == "agent_lost"


@pytest.mark.parametrize("limits", [{"a1": 60_000}, {"a": 60_000}])
async def test_overdue_step_is_asked_to_end_and_has_timed_out(world: World, limits: dict[str, int]) -> None:
    agent = await world.agent("x")
    run = await world.start(shape(".. | .", timeouts=limits))
    await world.server.schedule()
    dispatch = await world.begin(agent)
    await world.sql(_LONG_AGO)
    await world.sql("UPDATE job_runs SET started_at = started_at - interval '66 s'")
    for _ in range(2):
        await world.server.reaper.run_once()
    reason = ("the job " if "a" in limits else "") + "ran longer than its timeout"
    assert world.server.links.cancels == [CancelCommand(agent, dispatch.step_run_id, reason)]
    assert await run.states() == "RP P"
    await world.end(dispatch, StepStatus.CANCELLED)
    assert (await run.states(), await run.status()) == ("Tx x", RunStatus.FAILED)
    assert (await run.step("a1")).failure_reason == "timeout"


@pytest.mark.parametrize("second", [".", "*"])
async def test_job_whose_next_step_waits_for_an_agent_times_out(world: World, second: str) -> None:
    agent = await world.agent("x")
    run = await world.start(shape(f".{second}", timeouts={"a": 60_000}))
    await world.server.schedule()
    dispatch = await world.begin(agent)
    world.server.links.online.discard(agent)
    await world.sql("UPDATE agents SET disabled = true")
    await world.end(dispatch)
    assert await run.states() == "SQ"
    await world.server.reaper.run_once()
    assert await run.states() == "SQ"
    await world.sql("UPDATE job_runs SET started_at = started_at - interval '66 s'")
    await world.server.reaper.run_once()
    assert (await run.states(), await run.status()) == ("ST", RunStatus.FAILED)


async def test_job_that_came_to_its_gate_in_time_does_not_time_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await world.agent("x")
    run = await world.start(".[gate]")
    await world.server.schedule()
    step = await world.begin(agent)
    await world.sql("UPDATE job_runs SET timeout_ms = 1")
    look = deadlines.overdue_jobs

    async def slow(tx: Tx, passed_over: Iterable[tuple[UUID, UUID]], limit: int) -> list[tuple[UUID, UUID]]:
        found = await look(tx, passed_over, limit)
        await world.end(step)
        return found

    monkeypatch.setattr(deadlines, "overdue_jobs", slow)
    await world.server.reaper.run_once()
    assert await run.job_statuses() == [RunStatus.RUNNING]
    assert (await run.row()).jobs[0].gate is GateState.WAITING


async def test_retried_job_has_its_whole_time_again(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(shape(".", timeouts={"a": 60_000}))
    await world.work(agent, {"a1": StepStatus.FAILED})
    await world.sql("UPDATE job_runs SET started_at = started_at - interval '66 s'")
    await world.server.steps.retry(await run.step_id("a1"))
    await world.server.schedule()
    await world.begin(agent)
    await world.server.reaper.run_once()
    assert world.server.links.cancels == []


async def test_overdue_step_of_a_silent_agent_has_timed_out(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(shape(".", timeouts={"a1": 60_000}))
    await world.server.schedule()
    await world.begin(agent)
    await world.sql(_LONG_AGO)
    await world.server.reaper.run_once()
    await _lapse(world, agent)
    assert await run.states() == "T"


async def test_step_whose_agent_ignores_its_cancellation_ends(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    await world.server.runs.stop(run.id, None, "enough")
    await world.server.reaper.run_once()
    assert await run.states() == "R"
    await world.sql("UPDATE step_runs SET cancel_requested_at = cancel_requested_at - interval '3 min'")
    await world.server.reaper.run_once()
    assert (await run.states(), await run.status()) == ("C", RunStatus.CANCELLED)
    assert await world.report(dispatch, StepStatus.SUCCESS) is None  # no news: it is cancelled, whatever it did


async def test_nobody_is_late_after_the_database_was_away(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.server.schedule()
    await world.begin(agent)
    await world.sql(_SILENT, agent)
    world.server.reaper._was_away = True
    await world.server.reaper.run_once()
    assert await run.states() == "R"
    await _lapse(world, agent)
    assert await run.states() == "F"


async def test_one_bad_row_keeps_no_other_from_being_dealt_with(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [await world.start(".") for _ in range(3)]
    await world.sql("UPDATE pipeline_runs SET started_at = clock_timestamp() - interval '2 h', timeout_ms = 60000")
    time_out = Ledger.time_out_run

    def fail(self: Ledger, run: RunState, reason: str) -> None:
        if run.id == runs[1].id:
            raise ZeroDivisionError
        time_out(self, run, reason)

    monkeypatch.setattr(Ledger, "time_out_run", fail)
    for _ in range(3):
        with pytest.raises(ExceptionGroup):
            await world.server.reaper.run_once()
        statuses = [(await run.status()) for run in runs]
        assert statuses == [RunStatus.FAILED, RunStatus.PENDING, RunStatus.FAILED]
    await world.server.reaper.run_once()  # it is passed over from here on


async def test_row_that_rests_takes_no_place_of_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "LARGEST_BATCH", 1)
    world.server.reaper = reaper.Reaper(world.server.store, lease_seconds=LEASE_SECONDS)
    runs = [await world.start(".") for _ in range(2)]
    await world.sql("UPDATE pipeline_runs SET started_at = clock_timestamp() - interval '2 h', timeout_ms = 60000")
    time_out = Ledger.time_out_run
    first = min(run.id for run in runs)

    def fail(self: Ledger, run: RunState, reason: str) -> None:
        if run.id == first:
            raise ZeroDivisionError
        time_out(self, run, reason)

    monkeypatch.setattr(Ledger, "time_out_run", fail)
    for _ in range(3):
        with pytest.raises(ExceptionGroup):
            await world.server.reaper.run_once()
    await world.server.reaper.run_once()
    assert sorted([await run.status() for run in runs]) == [RunStatus.FAILED, RunStatus.PENDING]


async def test_step_that_cannot_be_lost_keeps_no_other_of_its_agent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await world.agent("x", 3)
    runs = [await world.start(".") for _ in range(3)]
    await world.server.schedule()
    for dispatch in world.take(agent):
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    bad, lose = await runs[1].step_id("a1"), Ledger.lose

    def fail(self: Ledger, step: StepState, message: str, **more: Any) -> None:
        if step.id == bad:
            raise ZeroDivisionError
        lose(self, step, message, **more)

    monkeypatch.setattr(Ledger, "lose", fail)
    with pytest.raises(ExceptionGroup):
        await _lapse(world, agent)
    assert [await run.states() for run in runs] == ["F", "R", "F"]
    assert (await world.server.fleet.get(agent)).status is AgentStatus.OFFLINE
    monkeypatch.undo()
    await world.server.reaper.run_once()
    assert await runs[1].states() == "F"


async def test_agent_that_is_back_before_its_steps_are_lost_keeps_them(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    reaper_ = world.server.reaper
    await world.server.store.change(lambda tx, ledger: reaper_._forsaken(tx, ledger, [dispatch.step_run_id]))
    assert await run.states() == "R"


async def test_lost_agent_that_is_back_says_nothing_of_its_job_any_more(world: World) -> None:
    agent, home = await world.agent("x", own="yes"), await world.agent("y")
    for lost, spec in ((agent, "*"), (home, ".")):
        run = await world.start(spec)
        world.server.links.online = {lost}
        await world.server.schedule()
        await world.begin(lost)
        await _lapse(world, lost)
        await world.server.agents.heartbeat(lost)
        job_id = (await run.row()).jobs[0].id
        report = JobReport(lost, job_id, RunStatus.RUNNING, artifact_uris={"log": "file:///1"})
        with pytest.raises((LeaseLost, NotLeased)):
            await world.server.runs.report_job(report)
        assert await world.server.steps.artifacts(await run.step_id("a1")) == []


# Most agents fall silent together


async def _silence(world: World, agents: Sequence[UUID], seconds_ago: float = 1.0) -> None:
    query = """UPDATE agents SET lease_until = clock_timestamp() - make_interval(secs => $2),
                      last_contact_at = clock_timestamp() - interval '300 s' WHERE id = ANY($1)"""
    await world.sql(query, list(agents), seconds_ago)


async def _states(runs: Sequence[Run]) -> str:
    return "".join([await run.states() for run in runs])


async def test_most_agents_at_once_are_waited_for_one_lease_more(world: World) -> None:
    agents, runs = await world.busy(4)
    await _silence(world, agents[:3])
    await world.server.reaper.run_once()
    assert await _states(runs) == "RRRR"
    left = "SELECT min(lease_until - clock_timestamp()) FROM agents WHERE id = ANY($1)"
    assert await world.value(left, agents[:3]) > timedelta(seconds=LEASE_SECONDS - 60)
    await _silence(world, agents[:3])  # they stay away, and are still most of all
    await world.server.agents.heartbeat(agents[0])
    await _silence(world, agents[3:])
    await world.server.reaper.run_once()
    assert sorted(await _states(runs)) == ["F", "F", "R", "R"]
    lost = {row.id for row in await world.server.fleet.list_all() if row.status is AgentStatus.OFFLINE}
    assert lost == set(agents[1:3])


async def test_agents_that_lapse_one_by_one_are_spared_one_by_one(world: World) -> None:
    agents, runs = await world.busy(4)
    await _silence(world, agents[:1])
    await _silence(world, agents[1:3], -LEASE_SECONDS / 4)  # nothing was heard of them either: they lapse soon
    await world.server.reaper.run_once()
    assert await _states(runs) == "RRRR"
    await _silence(world, agents[1:2])
    await world.server.reaper.run_once()
    await _silence(world, agents[2:3])
    await world.server.reaper.run_once()
    assert await _states(runs) == "RRRR"
    spared = await world.sql("SELECT id FROM agents WHERE spared_at IS NOT NULL")
    assert {row["id"] for row in spared} == set(agents[:3])


async def test_agents_that_hold_nothing_do_not_count(world: World) -> None:
    agents, runs = await world.busy(2)
    idle = [await world.agent(f"y{number}") for number in range(2)]
    await _silence(world, [*agents, *idle])
    await world.server.reaper.run_once()
    assert await _states(runs) == "FF"
    assert {row.status for row in await world.server.fleet.list_all()} == {AgentStatus.OFFLINE}


async def test_few_agents_that_fall_silent_are_lost(world: World) -> None:
    agents, runs = await world.busy(4)
    await _silence(world, agents[:2])
    await world.server.reaper.run_once()
    assert sorted(await _states(runs)) == ["F", "F", "R", "R"]
    assert await world.value("SELECT count(*) FROM agents WHERE spared_at IS NOT NULL") == 0
