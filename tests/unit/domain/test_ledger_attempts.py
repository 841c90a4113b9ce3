"""Attempts that the retry rule of a job makes, and a clone that meets a branch which moved."""

from __future__ import annotations

import pytest

from arcentra_server.domain.execution import CancelCause, Waiting
from arcentra_server.domain.states import FailureReason, RunStatus
from arcentra_server.domain.states import StepStatus as S
from tests.support.ledger_store import QueueRow
from tests.support.ledger_world import World, finish_all


def test_failed_job_runs_again_with_new_steps() -> None:
    world = World("..[retry=2]")
    world.finish("x", "a1")
    world.finish("x", "a2", status=S.FAILED)
    job = world.job("a")
    assert (world.states(), [step.attempt for step in world.steps("a")]) == ("QP", [2, 2])
    assert (job.status, job.attempt, job.retries_left) == (RunStatus.PENDING, 2, 0)
    assert (job.completed_steps, job.failed_steps, job.agent_id, job.failure_reason) == (0, 0, None, None)
    assert (world.run.status, world.run.completed_jobs, world.run.running_jobs) == (RunStatus.RUNNING, 0, 0)
    world.finish("y", "a1", "a2")
    assert world.run.status is RunStatus.SUCCESS


def test_job_fails_when_no_attempt_is_left() -> None:
    world = World(".[retry=3]")
    for attempt in (1, 2, 3):
        assert (world.states(), world.job("a").attempt) == ("Q", attempt)
        world.finish("x", "a1", status=S.FAILED)
    assert (world.ends(), world.run.status, world.job("a").attempt) == ("F", RunStatus.FAILED, 3)
    assert len(world.store.rows.superseded) == 2


def test_nobody_hears_of_a_job_that_runs_again() -> None:
    world = World(".[retry=2] .[needs=a] | .")
    world.finish("x", "a1", status=S.FAILED)
    assert (world.states(), world.job("b").open_needs) == ("Q P P", 1)
    finish_all(world, "x")
    assert world.ends() == "SSS"


def test_next_attempt_waits_for_its_delay() -> None:
    world = World("..[retry=2;delay=2500]")
    world.finish("x", "a1", status=S.FAILED)
    assert (world.queued("a1"), world.job("a").waits_for) == (QueueRow(None, held=False, delay=2.5), Waiting.RETRY)
    world.time_passes()
    world.start("x", "a1")
    assert world.job("a").waits_for is Waiting.NOTHING


@pytest.mark.parametrize(
    ("on", "again"),
    [
        ("", {S.FAILED, S.TIMEOUT}),
        ("failed", {S.FAILED, S.TIMEOUT}),
        ("script", {S.FAILED}),
        ("timeout", {S.TIMEOUT}),
        ("agent_lost,oom", set()),
        ("oom,timeout", {S.TIMEOUT}),
    ],
)
def test_rule_says_which_failures_it_is_for(on: str, again: set[S]) -> None:
    for status in (S.SUCCESS, S.FAILED, S.TIMEOUT, S.CANCELLED):
        world = World(f".[retry=2;on={on}]" if on else ".[retry=2]")
        world.finish("x", "a1", status=status)
        assert (world.job("a").attempt == 2) == (status in again), status


def test_reason_is_that_of_what_failed_first() -> None:
    world = World("..a[retry=2;on=script]")
    world.start("x", "a1")
    world.report("x", "a1", S.FAILED, reason=FailureReason.OOM)
    world.finish("x", "a2", status=S.FAILED)
    assert (world.ends(), world.job("a").failure_reason) == ("F", FailureReason.OOM)


def test_clean_up_runs_before_the_next_attempt() -> None:
    world = World("..a[retry=2]")
    world.finish("x", "a1", status=S.FAILED)
    assert (world.states(), world.job("a").attempt) == ("FQ", 1)
    world.finish("x", "a2")
    assert (world.states(), world.job("a").attempt) == ("QP", 2)


def test_lost_agent_is_a_failure_like_any_other() -> None:
    world = World("..[retry=2;on=agent_lost]")
    world.finish("x", "a1")
    world.start("x", "a2")
    world.lose("a2")
    assert world.states() == "QP"
    assert world.queued("a1") == QueueRow(None, held=False)


def test_job_that_ran_too_long_may_run_again() -> None:
    world = World("?.[retry=2;on=timeout]")
    world.start("x", "a1")
    world.cancel_job("a", cause=CancelCause.TIMEOUT)
    world.report("x", "a1", S.CANCELLED)
    assert (world.states(), world.job("a").attempt) == ("QP", 2)
    finish_all(world, "x")
    assert world.ends() == "S"


def test_given_up_job_may_run_again() -> None:
    world = World("..[retry=2]")
    world.start("x", "a1")
    world.fail_job("a")
    finish_all(world, "x")
    assert (world.ends(), world.job("a").attempt) == ("S", 2)


@pytest.mark.parametrize("verb", ["stop", "time_out"])
def test_nothing_runs_again_when_the_run_ends(verb: str) -> None:
    world = World(".[retry=3]")
    world.start("x", "a1")
    getattr(world, verb)()
    world.report("x", "a1", S.FAILED)
    assert (world.run.status.terminal, world.job("a").attempt) == (True, 1)


def test_cancelled_job_does_not_run_again() -> None:
    world = World(".[retry=3]")
    world.start("x", "a1")
    world.cancel_job("a")
    world.report("x", "a1", S.FAILED)
    assert (world.ends(), world.job("a").attempt) == ("C", 1)


def test_cancel_of_a_job_that_waits_to_run_again() -> None:
    world = World(".[retry=2;delay=1000]")
    world.finish("x", "a1", status=S.FAILED)
    world.cancel_job("a")
    assert (world.ends(), world.run.status) == ("C", RunStatus.CANCELLED)


def test_pause_holds_the_next_attempt() -> None:
    world = World(".[retry=2]")
    world.start("x", "a1")
    world.pause()
    world.report("x", "a1", S.FAILED)
    assert world.queued("a1") == QueueRow(None, held=True)


def test_every_attempt_is_asked_its_conditions_again() -> None:
    world = World(".?E[retry=3]")
    assert world.states() == "QP"
    world.finish("x", "a1", status=S.FAILED)
    assert (world.states(), world.job("a").attempt) == ("QP", 2)


def test_attempts_that_fail_at_once_come_to_an_end() -> None:
    world = World(".E[retry=3] .[needs=a]")
    assert (world.states(), world.job("a").attempt, world.run.status) == ("F x", 3, RunStatus.FAILED)


def test_added_step_is_part_of_the_next_attempt() -> None:
    world = World(".[retry=2]")
    world.start("x", "a1")
    world.add_step("a")
    world.report("x", "a1", S.FAILED)
    assert (world.states(), world.job("a").total_steps) == ("QP", 2)


def test_retry_by_hand_gives_the_rule_its_attempts_again() -> None:
    world = World(".[retry=2]")
    world.finish("x", "a1", status=S.FAILED)
    world.finish("x", "a1", status=S.FAILED)
    world.retry("a1")
    assert (world.job("a").attempt, world.job("a").retries_left) == (3, 1)
    finish_all(world, "x")
    assert world.ends() == "S"


# The branch moved


def test_first_clone_decides_what_the_run_keeps_to() -> None:
    world = World(".[source=r]")
    world.start("x", "a1")
    world.report("x", "a1", S.SUCCESS, commit="c1")
    assert (world.run.pins, world.run.commit_sha, world.states()) == ({"r": "c1"}, "c1", "SQ")


def test_clone_of_another_commit_begins_its_job_again() -> None:
    world = World(".[source=r;retry=2] ..a[source=r;retry=2]")
    world.start("x", "a1")
    world.start("y", "b1")
    world.report("x", "a1", S.SUCCESS, commit="c1")
    world.report("y", "b1", S.SUCCESS, commit="c2")
    job = world.job("b")
    assert (world.states(), job.attempt, job.retries_left) == ("SQ QPP", 2, 1)
    [old] = [one for one in world.store.rows.steps.values() if one.failure_reason is FailureReason.INTERNAL]
    assert (old.status, "the branch moved" in old.error_message) == (S.FAILED, True)
    world.start("y", "b1")
    world.report("y", "b1", S.SUCCESS, commit="c1")
    finish_all(world, "x")
    assert (world.ends(), world.run.commit_sha) == ("SS", "c1")


def test_other_sources_have_commits_of_their_own() -> None:
    world = World(".[source=r] .[source=q]")
    world.start("x", "a1", "b1")
    world.report("x", "a1", S.SUCCESS, commit="c1")
    world.report("x", "b1", S.SUCCESS, commit="c2")
    assert (world.run.pins, world.states()) == ({"r": "c1", "q": "c2"}, "SQ SQ")


def test_clone_that_fails_or_is_cancelled_pins_nothing() -> None:
    world = World(".[source=r] .[source=r]")
    world.start("x", "a1", "b1")
    world.report("x", "a1", S.FAILED, commit="c1")
    world.cancel_step("b1")
    world.report("x", "b1", S.SUCCESS, commit="c2")
    assert (world.run.pins, world.states()) == ({}, "Fx Cx")
