"""Pause and resume a run; lose an agent, or a lease that is not started."""

from __future__ import annotations

import pytest

from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.execution import CancelCause, Resource
from arcentra_server.domain.states import FailureReason, RunStatus
from arcentra_server.domain.states import StepStatus as S
from tests.support.ledger_store import QueueRow
from tests.support.ledger_view import AGENTS
from tests.support.ledger_world import World, finish_all


def test_pause_holds_the_queue() -> None:
    world = World(". .")
    world.pause("lunch", "alice")
    assert (world.run.status, world.run.paused, world.run.status_reason) == (RunStatus.PAUSED, True, "lunch")
    assert [row.held for row in world.store.rows.queue.values()] == [True, True]
    last = world.store.rows.events[-1]
    assert (last.resource, last.status, last.message, last.actor) == (Resource.RUN, "PAUSED", "lunch", "alice")


def test_pause_lets_a_running_step_end_and_holds_the_next() -> None:
    world = World("..")
    world.start("x", "a1")
    world.pause()
    world.report("x", "a1", S.SUCCESS)
    assert (world.states(), world.holder("a2")) == ("SQ", None)
    assert world.queued("a2") == QueueRow(AGENTS["x"], held=True)


def test_pause_holds_the_next_stage() -> None:
    world = World(". | .")
    world.start("x", "a1")
    world.pause()
    world.report("x", "a1", S.SUCCESS)
    assert world.queued("b1") == QueueRow(None, held=True)


def test_run_may_end_while_it_is_paused() -> None:
    world = World(".")
    world.start("x", "a1")
    world.pause()
    world.report("x", "a1", S.SUCCESS)
    assert (world.run.status, world.run.paused) == (RunStatus.SUCCESS, False)


def test_resume_lets_the_run_go_on() -> None:
    world = World("..")
    world.start("x", "a1")
    world.pause()
    world.report("x", "a1", S.SUCCESS)
    world.resume("on", "bob")
    assert (world.run.status, world.run.paused, world.run.status_reason) == (RunStatus.RUNNING, False, "on")
    assert world.queued("a2") == QueueRow(AGENTS["x"], held=False)
    finish_all(world, "x")
    assert world.run.status is RunStatus.SUCCESS


def test_resume_of_a_run_that_has_not_begun() -> None:
    world = World(".")
    world.pause()
    world.resume()
    assert world.run.status is RunStatus.PENDING
    world.start("x", "a1")
    assert (world.states(), world.run.status) == ("R", RunStatus.RUNNING)


def test_resume_of_a_run_of_which_one_job_has_ended() -> None:
    world = World(". | .")
    world.finish("x", "a1")
    world.pause()
    world.resume()
    assert world.run.status is RunStatus.RUNNING


def test_resume_of_a_run_that_was_retried_and_has_not_begun_again() -> None:
    world = World(".")
    world.finish("x", "a1", status=S.FAILED)
    world.retry_run(everything=True)
    world.pause()
    world.resume()
    assert world.run.status is RunStatus.RUNNING


def test_resume_of_a_run_that_has_not_begun_though_a_job_is_at_its_second_attempt() -> None:
    world = World(".[retry=2]")
    world.fail_waiting(world.step("a1").id)
    assert (world.job("a").attempt, world.run.status) == (2, RunStatus.PENDING)
    world.pause()
    world.resume()
    assert world.run.status is RunStatus.PENDING


def test_step_that_was_leased_before_the_pause_may_start() -> None:
    world = World(".")
    world.claim("x", "a1")
    world.pause()
    world.report("x", "a1", S.RUNNING)
    assert (world.states(), world.run.status, world.job("a").status) == ("R", RunStatus.PAUSED, RunStatus.RUNNING)
    world.resume()
    assert world.run.status is RunStatus.RUNNING


def test_finished_run_cannot_be_paused() -> None:
    world = World(".")
    world.finish("x", "a1")
    with pytest.raises(InvalidTransition):
        world.pause()


@pytest.mark.parametrize("agent_gone", [True, False])
def test_first_step_that_was_not_started_goes_back_to_the_queue(agent_gone: bool) -> None:
    world = World("..")
    world.claim("x", "a1")
    world.lose("a1", agent_gone=agent_gone)
    assert (world.states(), world.queued("a1")) == ("QP", QueueRow(None, held=False))
    assert list(world.store.rows.ended_leases.values()) == ["lost"]
    world.finish("y", "a1", "a2")
    assert world.run.status is RunStatus.SUCCESS


def test_lost_step_of_a_paused_run_is_held() -> None:
    world = World(".")
    world.claim("x", "a1")
    world.pause()
    world.lose("a1")
    assert world.queued("a1") == QueueRow(None, held=True)


def test_next_step_that_was_not_started_in_time_waits_for_the_agent_of_the_job() -> None:
    world = World("..")
    world.finish("x", "a1")
    world.lose("a2", agent_gone=False)
    assert world.queued("a2") == QueueRow(AGENTS["x"], held=False)


def test_next_step_ends_with_the_agent_that_has_its_workspace() -> None:
    world = World("...")
    world.finish("x", "a1")
    world.lose("a2", message="gone")
    step = world.step("a2")
    assert (world.states(), step.error_message, step.failure_reason) == ("SFx", "gone", FailureReason.AGENT_LOST)
    assert (world.run.status.terminal, world.store.rows.queue, world.store.rows.leases) == (True, {}, {})


def test_step_with_its_own_selector_goes_back_to_the_queue() -> None:
    world = World(".*")
    world.finish("x", "a1")
    world.claim("x", "a2")
    world.lose("a2")
    assert world.queued("a2") == QueueRow(None, held=False)


def test_running_step_fails_with_its_agent() -> None:
    world = World("..")
    world.start("x", "a1")
    world.lose("a1", message="gone")
    step = world.step("a1")
    assert (world.states(), step.error_message, step.failure_reason) == ("Fx", "gone", FailureReason.AGENT_LOST)
    assert (world.run.status, world.run.running_jobs, world.job("a").running_steps) == (RunStatus.FAILED, 0, 0)


def test_running_step_that_was_to_be_cancelled_is_cancelled_with_its_agent() -> None:
    world = World(".")
    world.start("x", "a1")
    world.cancel_step("a1")
    world.lose("a1")
    assert (world.states(), world.step("a1").failure_reason) == ("C", FailureReason.CANCELLED)


def test_running_step_whose_time_was_up_times_out_with_its_agent() -> None:
    world = World(".")
    world.start("x", "a1")
    world.cancel_step("a1", cause=CancelCause.TIMEOUT)
    world.lose("a1")
    assert (world.states(), world.step("a1").failure_reason) == ("T", FailureReason.TIMEOUT)


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("cause", [None, CancelCause.TIMEOUT])
def test_job_does_not_go_on_with_an_agent_that_is_gone(cause: CancelCause | None, paused: bool) -> None:
    world = World("?.")
    world.start("x", "a1")
    if paused:
        world.pause()
    if cause:
        world.cancel_step("a1", cause=cause)
    world.lose("a1", message="gone")
    assert world.holder("a2") is None
    assert world.queued("a2") is None
    assert world.run.status.terminal


def test_job_goes_on_with_a_step_of_its_own_after_its_agent_is_gone() -> None:
    world = World("?*")
    world.start("x", "a1")
    world.lose("a1")
    assert (world.states(), world.queued("a2")) == ("FQ", QueueRow(None, held=False))


def test_loss_of_a_step_of_its_own_leaves_the_workspace_of_the_job() -> None:
    world = World(".*.")
    world.finish("x", "a1")
    world.claim("y", "a2")
    world.lose("a2")
    world.finish("z", "a2")
    assert world.queued("a3") == QueueRow(AGENTS["x"], held=False)


def test_tolerated_loss_of_a_step_of_its_own_leaves_the_workspace_of_the_job() -> None:
    world = World(".!.")
    world.finish("x", "a1")
    world.start("y", "a2")
    world.lose("a2")
    assert (world.states(), world.queued("a3")) == ("SFQ", QueueRow(AGENTS["x"], held=False))


def test_tolerated_loss_of_a_step_of_its_own_before_there_is_a_workspace() -> None:
    world = World("!.")
    world.start("y", "a1")
    world.lose("a1")
    assert (world.states(), world.queued("a2")) == ("FQ", QueueRow(None, held=False))


def test_loss_of_a_step_of_its_own_on_the_agent_of_the_job_loses_the_workspace() -> None:
    world = World(".!..a")
    world.finish("x", "a1")
    world.start("x", "a2")
    world.lose("a2", message="gone")
    assert (world.states(), world.holder("a3"), world.queued("a3")) == ("SFFx", None, None)


def test_loss_of_what_is_not_leased_changes_nothing() -> None:
    world = World(". .")
    world.finish("x", "a1")
    before = (world.states(), len(world.store.rows.events))
    world.lose("a1", "b1")
    assert (world.states(), len(world.store.rows.events)) == before


def test_report_after_the_loss_is_refused() -> None:
    world = World(".")
    world.start("x", "a1")
    world.lose("a1")
    with pytest.raises(InvalidTransition):
        world.report("x", "a1", S.SUCCESS)
    assert world.states() == "F"
