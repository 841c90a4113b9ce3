"""Cancel a step or a job, stop a run."""

from __future__ import annotations

import pytest

from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.execution import CancelCause, CancelCommand
from arcentra_server.domain.states import FailureReason, RunStatus
from arcentra_server.domain.states import StepStatus as S
from tests.support.ledger_view import AGENTS
from tests.support.ledger_world import World


def test_cancel_of_a_queued_step_ends_it_and_its_job() -> None:
    world = World("..")
    world.cancel_step("a1", "not wanted")
    assert (world.states(), world.run.status, world.store.rows.queue) == ("Cx", RunStatus.CANCELLED, {})
    assert world.step("a1").error_message == "not wanted"
    assert world.store.cancels == []


def test_cancel_of_a_leased_step_ends_it_and_tells_its_agent() -> None:
    world = World(".")
    world.claim("x", "a1")
    world.cancel_step("a1", "not wanted")
    assert (world.states(), world.lease("a1")) == ("C", None)
    assert world.store.cancels == [CancelCommand(AGENTS["x"], world.step("a1").id, "not wanted")]


@pytest.mark.parametrize("reported", [S.CANCELLED, S.SUCCESS, S.FAILED, S.TIMEOUT])
def test_cancel_of_a_running_step_asks_its_agent(reported: S) -> None:
    world = World("..")
    world.start("x", "a1")
    world.cancel_step("a1", "not wanted")
    assert world.states() == "RP"
    assert world.store.cancels == [CancelCommand(AGENTS["x"], world.step("a1").id, "not wanted")]
    world.report("x", "a1", reported)
    assert (world.states(), world.job("a").status, world.run.status) == ("Cx", RunStatus.CANCELLED, RunStatus.CANCELLED)
    assert world.step("a1").failure_reason is FailureReason.CANCELLED
    assert world.step("a1").error_message == "not wanted"


def test_cancel_of_a_tolerated_running_step_ends_the_job() -> None:
    world = World("?.")
    world.start("x", "a1")
    world.cancel_step("a1")
    world.report("x", "a1", S.FAILED)
    assert world.states() == "Cx"


def test_cancel_twice_asks_again() -> None:
    world = World(".")
    world.start("x", "a1")
    world.cancel_step("a1", "first")
    world.cancel_step("a1", "second")
    assert [command.reason for command in world.store.cancels] == ["first", "second"]
    assert world.step("a1").cancel_reason == "first"


def test_cancel_of_a_finished_step_is_refused() -> None:
    world = World(".")
    world.finish("x", "a1")
    with pytest.raises(InvalidTransition):
        world.cancel_step("a1")


def test_cancel_of_a_later_step_lets_the_running_one_end() -> None:
    world = World("...")
    world.start("x", "a1")
    world.cancel_step("a3")
    assert (world.states(), world.job("a").status) == ("RxC", RunStatus.RUNNING)
    world.report("x", "a1", S.SUCCESS)
    assert (world.states(), world.run.status) == ("SxC", RunStatus.CANCELLED)


def test_cancel_of_a_later_step_skips_what_has_not_started() -> None:
    world = World("..")
    world.cancel_step("a2")
    assert (world.states(), world.store.rows.queue, world.run.status) == ("xC", {}, RunStatus.CANCELLED)


def test_cancel_of_a_later_step_takes_back_what_was_leased() -> None:
    world = World("..")
    world.claim("x", "a1")
    world.cancel_step("a2")
    assert (world.states(), world.store.rows.leases) == ("xC", {})
    assert world.store.cancels == [CancelCommand(AGENTS["x"], world.step("a1").id, "skipped")]


def test_cancel_of_a_job_whose_stage_is_not_open() -> None:
    world = World(". | . | .")
    world.start("x", "a1")
    world.cancel_job("b")
    assert world.states() == "R C P"
    world.report("x", "a1", S.SUCCESS)
    assert (world.states(), world.run.status) == ("S C x", RunStatus.CANCELLED)


@pytest.mark.parametrize("cause", list(CancelCause))
@pytest.mark.parametrize("reported", [S.SUCCESS, S.FAILED])
def test_cause_decides_how_it_ends(cause: CancelCause, reported: S) -> None:
    world = World(".")
    world.start("x", "a1")
    world.cancel_step("a1", cause=cause)
    world.report("x", "a1", reported)
    assert world.step("a1").status is (S.TIMEOUT if cause is CancelCause.TIMEOUT else S.CANCELLED)
    assert world.step("a1").failure_reason == (cause if cause is CancelCause.TIMEOUT else FailureReason.CANCELLED)


def test_tolerated_timeout_goes_on() -> None:
    world = World("?.")
    world.start("x", "a1")
    world.cancel_step("a1", cause=CancelCause.TIMEOUT)
    world.report("x", "a1", S.CANCELLED)
    assert (world.states(), world.holder("a2")) == ("TQ", "x")


def test_request_outranks_a_timeout_that_goes_on() -> None:
    world = World("?.")
    world.start("x", "a1")
    world.cancel_step("a1", "too long", CancelCause.TIMEOUT)
    world.cancel_job("a", "not wanted")
    world.report("x", "a1", S.CANCELLED)
    assert (world.states(), world.job("a").status) == ("Cx", RunStatus.CANCELLED)


def test_timeout_does_not_outrank_a_request() -> None:
    world = World("?.")
    world.start("x", "a1")
    world.cancel_job("a", "not wanted")
    world.cancel_step("a1", "too long", CancelCause.TIMEOUT)
    world.report("x", "a1", S.CANCELLED)
    assert world.states() == "Cx"


@pytest.mark.parametrize("shape", ["..", "?.", "*."])
def test_cancel_of_a_waiting_job_ends_it_at_once(shape: str) -> None:
    world = World(shape)
    world.cancel_job("a", "not wanted")
    assert (world.states(), world.job("a").status, world.run.status) == ("Cx", RunStatus.CANCELLED, RunStatus.CANCELLED)


def test_cancel_of_a_running_job_asks_its_agent() -> None:
    world = World("..")
    world.start("x", "a1")
    world.cancel_job("a")
    assert (world.states(), len(world.store.cancels)) == ("RP", 1)
    world.report("x", "a1", S.CANCELLED)
    assert world.states() == "Cx"


def test_cancel_of_a_job_whose_next_step_is_leased() -> None:
    world = World("..")
    world.finish("x", "a1")
    world.cancel_job("a")
    assert (world.states(), world.store.rows.leases, len(world.store.cancels)) == ("SC", {}, 1)


def test_cancel_of_one_job_leaves_the_others_of_its_stage() -> None:
    world = World(". .. | .")
    world.cancel_job("a")
    assert world.states() == "C QP P"
    world.finish("x", "b1", "b2")
    assert (world.states(), world.run.status) == ("C SS x", RunStatus.CANCELLED)


def test_stop_ends_all_that_waits() -> None:
    world = World(".. . | ..")
    world.stop("enough")
    assert (world.states(), world.run.status, world.store.rows.queue) == ("Cx C Cx", RunStatus.CANCELLED, {})
    assert world.run.status_reason == "enough"
    assert {world.job(name).status for name in "abc"} == {RunStatus.CANCELLED}


def test_stop_asks_what_runs() -> None:
    world = World(".. . | .")
    world.start("x", "a1")
    world.stop("enough")
    assert (world.states(), world.run.status, len(world.store.cancels)) == ("RP C C", RunStatus.RUNNING, 1)
    world.report("x", "a1", S.CANCELLED)
    assert (world.states(), world.run.status) == ("Cx C C", RunStatus.CANCELLED)


@pytest.mark.parametrize("reported", [S.SUCCESS, S.FAILED, S.TIMEOUT, S.CANCELLED])
def test_stop_is_final_whatever_is_reported_then(reported: S) -> None:
    world = World("?. . | .")
    world.start("x", "a1")
    world.stop()
    world.report("x", "a1", reported)
    assert (world.states(), world.run.status, world.store.rows.queue) == ("Cx C C", RunStatus.CANCELLED, {})


def test_stop_while_a_timeout_is_enforced() -> None:
    world = World("?.")
    world.start("x", "a1")
    world.cancel_step("a1", cause=CancelCause.TIMEOUT)
    world.stop()
    world.report("x", "a1", S.CANCELLED)
    assert (world.states()[1], world.run.status) == ("x", RunStatus.CANCELLED)
    assert world.job("a").status is RunStatus.CANCELLED


def test_stop_ends_a_pause() -> None:
    world = World("..")
    world.start("x", "a1")
    world.pause()
    world.stop()
    assert not world.run.paused
    world.report("x", "a1", S.CANCELLED)
    assert (world.run.status, world.run.paused) == (RunStatus.CANCELLED, False)


def test_stop_of_a_finished_run_is_refused() -> None:
    world = World(".")
    world.finish("x", "a1")
    with pytest.raises(InvalidTransition):
        world.stop()


def test_job_that_its_agent_gives_up_fails() -> None:
    world = World("...")
    world.start("x", "a1")
    world.fail_job("a", "no disk")
    assert (world.states(), world.job("a").status, world.run.status) == ("Fxx", RunStatus.FAILED, RunStatus.FAILED)
    assert (world.step("a1").error_message, world.step("a1").failure_reason) == ("no disk", FailureReason.INTERNAL)
    assert (world.store.rows.leases, world.job("a").running_steps) == ({}, 0)


def test_job_that_its_agent_gives_up_between_two_steps_ends() -> None:
    world = World("..")
    world.finish("x", "a1")
    world.fail_job("a", "no disk")
    assert (world.job("a").status.terminal, world.store.rows.leases, world.store.rows.queue) == (True, {}, {})


def test_job_that_its_agent_gives_up_does_not_go_on_after_a_tolerated_step() -> None:
    world = World("?..")
    world.start("x", "a1")
    world.fail_job("a", "no disk")
    assert (world.states()[0], world.store.rows.leases, world.store.rows.queue) == ("F", {}, {})
    assert world.run.status in (RunStatus.FAILED, RunStatus.CANCELLED)


@pytest.mark.parametrize("shape", ["..", "?."])
@pytest.mark.parametrize("between", [False, True])
def test_job_that_its_agent_gives_up_ends_as_its_steps_say(shape: str, between: bool) -> None:
    world = World(shape)
    world.start("x", "a1")
    if between:
        world.report("x", "a1", S.SUCCESS)
    world.fail_job("a", "no disk")
    assert world.job("a").status in (RunStatus.FAILED, RunStatus.CANCELLED)


def test_cancelled_job_that_its_agent_gives_up_is_cancelled() -> None:
    world = World("..")
    world.start("x", "a1")
    world.cancel_job("a")
    world.fail_job("a", "no disk")
    assert (world.states(), world.job("a").status) == ("Cx", RunStatus.CANCELLED)


def test_job_that_runs_too_long_stays_so_when_its_agent_gives_it_up() -> None:
    world = World("?.")
    world.start("x", "a1")
    world.cancel_job("a", "too long", CancelCause.TIMEOUT)
    world.fail_job("a", "no disk")
    assert (world.states(), world.job("a").status) == ("Tx", RunStatus.TIMEOUT)


def test_nothing_is_left_after_a_stop() -> None:
    world = World("..* ?. | . .")
    world.start("x", "a1")
    world.claim("y", "b1")
    world.stop()
    world.report("x", "a1", S.SUCCESS)
    assert (world.store.rows.leases, world.store.rows.queue, world.run.completed_jobs) == ({}, {}, 4)
