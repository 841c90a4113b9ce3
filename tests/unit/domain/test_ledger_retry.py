"""Run a job again; add steps and jobs to a run."""

from __future__ import annotations

import pytest

from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.execution import Resource
from arcentra_server.domain.states import RunStatus
from arcentra_server.domain.states import StepStatus as S
from tests.support.ledger_store import QueueRow
from tests.support.ledger_world import World, finish_all


def test_retry_makes_new_attempts_of_all_steps_of_the_job() -> None:
    world = World("..")
    world.finish("x", "a1")
    world.finish("x", "a2", status=S.FAILED)
    old = [step.id for step in world.steps("a")]
    world.retry("a2")
    assert (world.states(), [step.attempt for step in world.steps("a")]) == ("QP", [2, 2])
    assert [world.store.steps[step_id].status for step_id in old] == [S.SUCCESS, S.FAILED]


def test_retry_may_go_to_another_agent() -> None:
    world = World("..")
    world.finish("x", "a1", status=S.FAILED)
    world.retry("a1")
    assert (world.job("a").agent_id, world.queued("a1")) == (None, QueueRow(None, held=False))
    world.finish("y", "a1", "a2")
    assert world.run.status is RunStatus.SUCCESS


def test_retry_opens_job_and_run_again() -> None:
    world = World("..")
    world.start("x", "a1")
    world.report("x", "a1", S.FAILED, exit_code=3, message="boom")
    world.retry("a1")
    job, run = world.job("a"), world.run
    assert (job.status, job.completed_steps, job.failed_steps, job.current_step) == (RunStatus.PENDING, 0, 0, 0)
    assert (job.exit_code, job.error_message) == (0, "")
    assert (run.status, run.completed_jobs, run.failed_jobs, world.store.stages) == (RunStatus.RUNNING, 0, 0, {0: 1})


def test_retry_forgets_the_failure_of_the_job_alone() -> None:
    world = World(". .")
    world.finish("x", "a1", "b1", status=S.FAILED)
    world.retry("a1")
    finish_all(world, "x")
    assert (world.states(), world.run.status, world.run.failed_jobs) == ("S F", RunStatus.FAILED, 1)


def test_retry_gives_skipped_jobs_their_turn_again() -> None:
    world = World(". | .. | .")
    world.finish("x", "a1", status=S.FAILED)
    world.retry("a1")
    assert world.states() == "Q PP P"
    finish_all(world, "x")
    assert (world.states(), world.run.status) == ("S SS S", RunStatus.SUCCESS)


def test_retry_that_fails_again_skips_them_again() -> None:
    world = World(". | .")
    world.finish("x", "a1", status=S.FAILED)
    world.retry("a1")
    world.finish("x", "a1", status=S.FAILED)
    assert (world.states(), world.run.status, world.run.completed_jobs) == ("F x", RunStatus.FAILED, 2)


def test_retry_of_a_stopped_run_ends_the_stop() -> None:
    world = World(".")
    world.stop()
    world.retry("a1")
    finish_all(world, "x")
    assert (world.run.status, world.run.stopped) == (RunStatus.SUCCESS, False)


def test_report_of_the_old_attempt_leaves_the_new_one() -> None:
    world = World(".")
    world.finish("x", "a1", status=S.FAILED)
    old = world.step("a1").id
    world.retry("a1")
    world.claim("x", "a1")
    assert world.store.steps[old].status is S.FAILED
    assert world.states() == "Q"


def test_retry_of_a_job_that_has_not_ended_is_refused() -> None:
    world = World(".")
    with pytest.raises(InvalidTransition):
        world.retry("a1")


def test_retry_does_not_undo_a_stop_in_progress() -> None:
    world = World(". .")
    world.start("x", "a1")
    world.stop()
    with pytest.raises(InvalidTransition):
        world.retry("b1")
    world.report("x", "a1", S.CANCELLED)
    assert world.run.status is RunStatus.CANCELLED


def try_retry(world: World, step: str) -> None:
    """Retry a step where it may be possible; what follows has to hold either way."""
    try:
        world.retry(step)
    except InvalidTransition:
        return


def test_retry_of_a_cancelled_job_waits_for_the_turn_of_its_stage() -> None:
    world = World(". | .")
    world.start("x", "a1")
    world.cancel_job("b")
    try_retry(world, "b1")
    assert world.states() in {"R P", "R C"}
    finish_all(world, "x")
    assert world.run.status.terminal


@pytest.mark.parametrize("then", [S.SUCCESS, S.FAILED])
def test_retry_while_the_next_stage_runs_leaves_its_steps_alone(then: S) -> None:
    world = World(". | ..")
    world.finish("x", "a1")
    world.start("y", "b1")
    try_retry(world, "a1")
    if world.step("a1").status is S.QUEUED:
        world.finish("x", "a1", status=then)
    assert world.step("b1").status is S.RUNNING
    assert world.step("b2").status in (S.PENDING, S.SKIPPED)
    finish_all(world, "x")
    assert world.run.status.terminal
    assert world.run.completed_jobs == world.run.total_jobs


def test_retry_before_a_stage_that_was_cancelled_reaches_the_stages_behind_it() -> None:
    world = World(". | . | .")
    world.start("x", "a1")
    world.cancel_job("b")
    world.report("x", "a1", S.SUCCESS)
    assert (world.states(), world.run.status) == ("S C x", RunStatus.CANCELLED)
    world.retry("a1")
    finish_all(world, "x")
    assert (world.run.status.terminal, world.run.completed_jobs) == (True, 3)


def test_retry_of_a_stage_before_those_that_succeeded_ends_the_run() -> None:
    world = World(". | .")
    world.finish("x", "a1", "b1")
    world.retry("a1")
    assert (world.states(), world.run.status) == ("Q S", RunStatus.RUNNING)
    world.finish("x", "a1")
    assert (world.states(), world.run.status) == ("S S", RunStatus.SUCCESS)


def test_added_step_follows_the_others() -> None:
    world = World(".")
    world.start("x", "a1")
    world.add_step("a")
    assert (world.states(), world.job("a").total_steps) == ("RP", 2)
    world.report("x", "a1", S.SUCCESS)
    assert world.holder("a2") == "x"


def test_step_added_to_a_job_that_fails_is_skipped() -> None:
    world = World(".")
    world.start("x", "a1")
    world.add_step("a")
    world.report("x", "a1", S.FAILED)
    assert (world.states(), world.run.status) == ("Fx", RunStatus.FAILED)


def test_added_job_is_part_of_the_open_stage() -> None:
    world = World(". | . | .")
    world.finish("x", "a1")
    name = world.add_job()
    assert (world.states(), world.run.total_jobs, world.store.stages) == ("S Q P Q", 4, {0: 0, 1: 2, 2: 1})
    world.finish("x", "b1")
    assert world.step("c1").status is S.PENDING
    world.finish("y", f"{name}1")
    assert world.step("c1").status is S.QUEUED


def test_creation_of_what_is_added_is_told() -> None:
    world = World(".")
    world.add_job()
    new = [event for event in world.store.events if event.job_id == world.job("b").id and event.previous is None]
    assert [(event.resource, event.status) for event in new] == [(Resource.JOB, "PENDING"), (Resource.STEP, "PENDING")]


def test_step_added_to_a_paused_run_is_held() -> None:
    world = World(".")
    world.pause()
    world.add_job()
    assert world.queued("b1") == QueueRow(None, held=True)
