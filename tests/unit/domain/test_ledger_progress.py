"""How a run goes on by itself: from a report to the next step, the next stage and the end."""

from __future__ import annotations

import pytest

from arcentra_server.domain.execution import Release, Resource
from arcentra_server.domain.states import FailureReason, RunStatus
from arcentra_server.domain.states import StepStatus as S
from tests.support.ledger_view import AGENTS
from tests.support.ledger_world import World, finish_all

FAILURES = (S.FAILED, S.TIMEOUT)


def test_first_steps_of_the_first_stage_are_queued() -> None:
    assert World(".. . | .").states() == "QP Q P"


def test_start_makes_step_job_and_run_running() -> None:
    world = World("..")
    world.start("x", "a1")
    assert (world.states(), world.job("a").status, world.run.status) == ("RP", RunStatus.RUNNING, RunStatus.RUNNING)
    assert world.step("a1").agent_id == world.job("a").agent_id == AGENTS["x"]


def test_start_keeps_the_lease() -> None:
    world = World(".")
    world.claim("x", "a1")
    lease = world.lease("a1")
    world.report("x", "a1", S.RUNNING)
    assert world.lease("a1") == lease


def test_end_of_a_step_ends_its_lease() -> None:
    world = World(".")
    world.start("x", "a1")
    lease = world.lease("a1")
    assert lease is not None
    world.report("x", "a1", S.SUCCESS)
    assert world.lease("a1") is None
    assert world.store.rows.ended_leases == {lease.id: "SUCCESS"}


def test_next_step_is_leased_to_the_same_agent_at_once() -> None:
    world = World("..")
    world.finish("x", "a1")
    assert (world.states(), world.holder("a2"), world.queued("a2")) == ("SQ", "x", None)


def test_step_with_its_own_selector_is_queued_for_any_agent() -> None:
    world = World(".*")
    world.finish("x", "a1")
    row = world.queued("a2")
    assert row is not None
    assert (row.agent_id, world.holder("a2")) == (None, None)


def test_step_with_its_own_selector_does_not_take_the_job_along() -> None:
    world = World(".*.")
    world.finish("x", "a1")
    world.finish("y", "a2")
    row = world.queued("a3")
    assert row is not None
    assert row.agent_id == world.job("a").agent_id == AGENTS["x"]


def test_own_selector_on_the_agent_of_the_job_lets_the_next_step_follow_at_once() -> None:
    world = World(".*.")
    world.finish("x", "a1", "a2")
    assert world.holder("a3") == "x"


def test_job_whose_first_step_has_its_own_selector_gets_its_agent_later() -> None:
    world = World("*.")
    world.finish("x", "a1")
    row = world.queued("a2")
    assert world.job("a").agent_id is None
    assert row is not None
    assert row.agent_id is None


def test_run_succeeds_when_all_steps_do() -> None:
    world = World(".. .")
    world.finish("x", "a1", "a2")
    world.finish("y", "b1")
    assert (world.states(), world.job("a").status, world.run.status) == ("SS S", RunStatus.SUCCESS, RunStatus.SUCCESS)


def test_end_of_a_job_releases_its_workspace() -> None:
    world = World("..")
    world.finish("x", "a1")
    assert world.store.releases == []
    world.finish("x", "a2")
    assert world.store.releases == [Release(AGENTS["x"], world.job("a").id)]


@pytest.mark.parametrize(
    ("status", "job", "run"),
    [
        (S.FAILED, RunStatus.FAILED, RunStatus.FAILED),
        (S.TIMEOUT, RunStatus.TIMEOUT, RunStatus.FAILED),
        (S.CANCELLED, RunStatus.CANCELLED, RunStatus.CANCELLED),
    ],
)
def test_failure_skips_the_rest_of_the_job(status: S, job: RunStatus, run: RunStatus) -> None:
    world = World("...")
    world.finish("x", "a1", status=status)
    assert world.states() == f"{status.value[0]}xx"
    assert (world.job("a").status, world.run.status) == (job, run)
    assert world.store.rows.queue == {}


@pytest.mark.parametrize("status", FAILURES)
def test_tolerated_failure_goes_on_and_ends_partial(status: S) -> None:
    world = World("?.")
    world.finish("x", "a1", status=status)
    assert world.holder("a2") == "x"
    world.finish("x", "a2")
    assert (world.job("a").status, world.run.status) == (RunStatus.PARTIAL, RunStatus.PARTIAL)
    assert (world.job("a").failed_steps, world.run.failed_jobs) == (1, 0)


def test_tolerated_failure_of_the_last_step_ends_partial() -> None:
    world = World(".?")
    world.finish("x", "a1")
    world.finish("x", "a2", status=S.FAILED)
    assert world.run.status is RunStatus.PARTIAL


def test_cancelled_step_is_not_tolerated() -> None:
    world = World("?.")
    world.finish("x", "a1", status=S.CANCELLED)
    assert (world.states(), world.run.status) == ("Cx", RunStatus.CANCELLED)


def test_failed_job_does_not_stop_the_others_of_its_stage() -> None:
    world = World(". ..")
    world.finish("x", "a1", status=S.FAILED)
    assert world.run.status is RunStatus.RUNNING
    world.finish("y", "b1", "b2")
    assert (world.states(), world.run.status) == ("F SS", RunStatus.FAILED)


def test_stage_opens_when_the_one_before_has_ended() -> None:
    world = World(". . | .. .")
    world.finish("x", "a1")
    assert world.states() == "S Q PP P"
    world.finish("x", "b1")
    assert world.states() == "S S QP Q"


def test_step_of_a_new_stage_is_queued_for_any_agent() -> None:
    world = World(". | .")
    world.finish("x", "a1")
    row = world.queued("b1")
    assert row is not None
    assert row.agent_id is None


def test_tolerated_failure_opens_the_next_stage() -> None:
    world = World("? | .")
    world.finish("x", "a1", status=S.FAILED)
    assert world.states() == "F Q"


@pytest.mark.parametrize("status", [*FAILURES, S.CANCELLED])
def test_failure_skips_all_later_stages(status: S) -> None:
    world = World(". | .. . | .")
    world.finish("x", "a1", status=status)
    assert world.states().split()[1:] == ["xx", "x", "x"]
    assert {world.job(name).status for name in "bcd"} == {RunStatus.SKIPPED}
    assert (world.run.completed_jobs, world.open_jobs) == (4, {0: 0, 1: 0, 2: 0})


def test_failure_beside_running_jobs_skips_the_next_stage_when_they_have_ended() -> None:
    world = World(". . | .")
    world.start("y", "b1")
    world.finish("x", "a1", status=S.FAILED)
    assert (world.states(), world.run.status) == ("F R P", RunStatus.RUNNING)
    world.finish("y", "b1")
    assert (world.states(), world.run.status) == ("F S x", RunStatus.FAILED)


def test_two_transitions_of_a_step_in_one_batch() -> None:
    world = World("..")
    world.claim("x", "a1")
    world.report("x", "a1", S.RUNNING, S.SUCCESS)
    assert (world.states(), world.holder("a2")) == ("SQ", "x")
    seen = [event.status for event in world.store.rows.events if event.step_id == world.step("a1").id]
    assert seen == ["QUEUED", "RUNNING", "SUCCESS"]


def test_end_of_all_jobs_of_a_stage_in_one_batch() -> None:
    world = World(". | .")
    world.claim("x", "a1")
    world.report("x", "a1", S.RUNNING, S.FAILED)
    assert (world.states(), world.run.status) == ("F x", RunStatus.FAILED)


def test_counters_follow() -> None:
    world = World("?.. . | .")
    world.start("x", "a1")
    job = world.job("a")
    assert (job.total_steps, job.completed_steps, job.failed_steps, job.running_steps) == (3, 0, 0, 1)
    assert (world.run.total_jobs, world.run.completed_jobs, world.run.running_jobs) == (3, 0, 1)
    world.finish("x", "a1", status=S.FAILED)
    world.start("x", "a2")
    job = world.job("a")
    assert (job.completed_steps, job.failed_steps, job.running_steps, job.current_step) == (1, 1, 1, 1)
    world.finish("y", "b1", status=S.FAILED)
    assert (world.run.completed_jobs, world.run.failed_jobs, world.run.running_jobs) == (1, 1, 1)
    assert world.open_jobs == {0: 1, 1: 1}


def test_result_of_a_step_is_kept_and_told_of_its_job() -> None:
    world = World(".")
    world.start("x", "a1")
    world.report("x", "a1", S.FAILED, exit_code=3, message="boom")
    step, job = world.step("a1"), world.job("a")
    assert (step.exit_code, step.error_message, step.failure_reason) == (3, "boom", FailureReason.SCRIPT)
    assert (job.exit_code, job.error_message) == (3, "boom")


def test_reason_of_the_agent_is_kept() -> None:
    world = World(".")
    world.start("x", "a1")
    world.report("x", "a1", S.FAILED, reason=FailureReason.OOM)
    assert world.step("a1").failure_reason is FailureReason.OOM


def test_timeout_has_its_reason() -> None:
    world = World(".")
    world.finish("x", "a1", status=S.TIMEOUT)
    assert world.step("a1").failure_reason is FailureReason.TIMEOUT


def test_success_has_no_reason() -> None:
    world = World(".")
    world.start("x", "a1")
    world.report("x", "a1", S.SUCCESS, reason=FailureReason.OOM)
    assert world.step("a1").failure_reason is None


@pytest.mark.parametrize("status", [S.TIMEOUT, S.SKIPPED, S.CANCELLED])
@pytest.mark.parametrize("shape", [".", "?", "..", "??", ". .", ". | ."])
def test_step_may_end_before_it_started(shape: str, status: S) -> None:
    world = World(shape)
    world.claim("x", "a1")
    world.report("x", "a1", status)
    assert world.step("a1").status is status
    finish_all(world, "x")
    assert world.run.status.terminal


def test_events_carry_the_counters_of_their_moment() -> None:
    world = World("..")
    world.finish("x", "a1", "a2")
    told = [(event.status, event.completed, event.running) for event in world.store.rows.events if event.total]
    jobs = [(event.status, event.completed) for event in world.store.rows.events if event.resource is Resource.JOB]
    assert jobs == [("PENDING", 0), ("RUNNING", 0), ("SUCCESS", 2)]
    assert ("SUCCESS", 1, 0) in told  # the run, of which one job has ended


def test_nothing_is_left_when_all_is_done() -> None:
    world = World("... ..")
    finish_all(world, "xy")
    assert (world.store.rows.leases, world.store.rows.queue, world.run.status) == ({}, {}, RunStatus.SUCCESS)
