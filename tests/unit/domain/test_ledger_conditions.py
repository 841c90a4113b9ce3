"""Steps and jobs with a condition: when it is asked, and what comes of the answer."""

from __future__ import annotations

import pytest

from arcentra_server.domain.execution import CancelCause
from arcentra_server.domain.states import FailureReason, RunStatus
from arcentra_server.domain.states import StepStatus as S
from tests.support.ledger_world import World, finish_all


@pytest.mark.parametrize(
    ("letter", "after_success", "after_failure", "after_cancel"),
    [
        ("", "Q", "x", "x"),
        ("s", "Q", "x", "x"),
        ("t", "Q", "x", "x"),
        ("a", "Q", "Q", "Q"),
        ("f", "x", "Q", "x"),
        ("c", "x", "x", "Q"),
        ("n", "x", "x", "x"),
        ("e", "F", "x", "x"),
        ("E", "F", "F", "F"),
    ],
)
def test_step_after_what_its_job_is_so_far(
    letter: str, after_success: str, after_failure: str, after_cancel: str
) -> None:
    for end, expected in ((S.SUCCESS, after_success), (S.FAILED, after_failure), (S.CANCELLED, after_cancel)):
        world = World(f"..{letter}")
        world.finish("x", "a1", status=end)
        assert world.states()[1] == expected, f"{letter} after {end}"


@pytest.mark.parametrize("letter", ["", "s", "t", "a", "f", "c", "n"])
@pytest.mark.parametrize("end", [S.SUCCESS, S.FAILED, S.CANCELLED])
def test_job_is_asked_as_a_step_is(letter: str, end: S) -> None:
    step, job = World(f"..{letter}"), World(f". .[needs=a;when={letter}]" if letter else ". .[needs=a]")
    for world in (step, job):
        world.finish("x", "a1", status=end)
    assert job.states().replace(" ", "") == step.states()


def test_first_step_is_asked_too() -> None:
    world = World(".n.")
    assert world.states() == "xQ"


def test_condition_is_asked_when_its_turn_has_come() -> None:
    world = World("..f.")
    assert world.states() == "QPP"
    world.finish("x", "a1")
    assert world.states() == "SxQ"


def test_clean_up_follows_at_once_on_the_agent_of_the_job() -> None:
    world = World("...a")
    world.finish("x", "a1", status=S.FAILED)
    assert (world.states(), world.holder("a3")) == ("FxQ", "x")


def test_clean_up_that_succeeds_makes_no_failure_good() -> None:
    world = World("..a")
    world.finish("x", "a1", status=S.FAILED)
    world.finish("x", "a2")
    assert (world.ends(), world.run.status) == ("F", RunStatus.FAILED)


def test_clean_up_that_fails_fails_the_job() -> None:
    world = World("..a")
    world.finish("x", "a1")
    world.finish("x", "a2", status=S.FAILED)
    assert world.ends() == "F"


def test_step_that_is_wrong_fails_and_says_why() -> None:
    world = World("..E")
    world.finish("x", "a1")
    step = world.step("a2")
    assert (step.status, step.failure_reason, world.job("a").failure_reason) == (
        S.FAILED,
        FailureReason.VALIDATION,
        FailureReason.VALIDATION,
    )
    assert "cannot be evaluated" in step.error_message
    assert world.job("a").error_message == step.error_message


def test_step_that_is_wrong_and_tolerated_lets_the_job_go_on() -> None:
    world = World(".?E.")
    world.finish("x", "a1")
    assert (world.states(), world.holder("a3")) == ("SFQ", "x")
    world.finish("x", "a3")
    assert world.ends() == "p"


@pytest.mark.parametrize("steps", ["..", "?.", "..a", "?.a"])
def test_job_that_is_wrong_fails_with_its_first_step_whatever_it_tolerates(steps: str) -> None:
    world = World(f"{steps}[when=E] .[needs=a]")
    assert (world.states(), world.ends(), world.run.status) == ("Fx x", "Fx", RunStatus.FAILED)
    assert world.job("a").failure_reason is FailureReason.VALIDATION
    assert world.step("a1").failure_reason is FailureReason.VALIDATION


def test_job_that_is_wrong_does_not_run_again() -> None:
    world = World(".[when=E;retry=3]")
    assert (world.ends(), world.job("a").attempt) == ("F", 1)


# Cancelled


def test_cancel_of_a_step_lets_the_clean_up_go_on() -> None:
    world = World("...a")
    world.start("x", "a1")
    world.cancel_step("a1")
    world.report("x", "a1", S.CANCELLED)
    assert (world.states(), world.holder("a3")) == ("CxQ", "x")
    world.finish("x", "a3")
    assert world.ends() == "C"


def test_cancel_of_a_later_step_is_seen_by_what_comes_before_it() -> None:
    world = World("..c.")
    world.start("x", "a1")
    world.cancel_step("a3")
    assert world.states() == "RPC"
    world.report("x", "a1", S.SUCCESS)
    assert world.states() == "SQC"


def test_clean_up_that_waits_for_its_agent_stays_when_a_later_step_is_cancelled() -> None:
    world = World("..a.")
    world.finish("x", "a1")
    world.cancel_step("a3")
    assert (world.states(), world.holder("a2")) == ("SQC", "x")


@pytest.mark.parametrize("shape", [". | ...a", ". ...a[needs=a]", ". | & ...a", "...a[key=k] | ."])
def test_cancel_of_a_step_whose_job_has_not_its_turn_starts_nothing(shape: str) -> None:
    world = World(shape)
    if "&" in shape:
        world.finish("x", "a1")
    job = "a" if "key" in shape else "b"
    world.cancel_step(f"{job}1")
    assert (world.states().split()[job == "b"], world.job(job).status) == ("CxP", RunStatus.PENDING)
    finish_all(world, "x")
    assert (world.states().split()[job == "b"], world.job(job).status) == ("CxS", RunStatus.CANCELLED)


def test_job_of_which_a_step_was_cancelled_before_its_turn_may_be_skipped_then() -> None:
    world = World(". ...a[needs=a]")
    world.cancel_step("b1")
    world.finish("x", "a1", status=S.FAILED)
    assert (world.states(), world.ends()) == ("F Cxx", "FC")


@pytest.mark.parametrize("verb", ["cancel_job", "stop", "time_out"])
def test_what_ends_a_job_or_a_run_lets_not_even_the_clean_up_go_on(verb: str) -> None:
    world = World("..a.E")
    world.start("x", "a1")
    getattr(world, verb)(*("a" if verb == "cancel_job" else ""))
    world.report("x", "a1", S.CANCELLED)
    assert world.states() in {"Cxx", "Txx"}
    assert world.run.status.terminal


def test_job_that_runs_too_long_ends_as_such() -> None:
    world = World("..a .[needs=a;when=f]")
    world.start("x", "a1")
    world.cancel_job("a", "too long", CancelCause.TIMEOUT)
    world.report("x", "a1", S.SUCCESS)
    assert (world.states(), world.ends()) == ("Tx Q", "T-")
    assert world.job("a").failure_reason is FailureReason.TIMEOUT


def test_job_that_runs_too_long_in_a_tolerated_step_ends_as_such() -> None:
    world = World("?.")
    world.start("x", "a1")
    world.cancel_job("a", "too long", CancelCause.TIMEOUT)
    world.report("x", "a1", S.CANCELLED)
    assert (world.states(), world.ends(), world.job("a").failure_reason) == ("Tx", "T", FailureReason.TIMEOUT)


def test_run_that_takes_too_long_fails() -> None:
    world = World(".. . | .")
    world.start("x", "a1")
    world.time_out("too long")
    assert world.states() == "RP T C"
    world.report("x", "a1", S.CANCELLED)
    assert (world.ends(), world.run.status, world.run.status_reason) == ("TTC", RunStatus.FAILED, "too long")


# Lost


def test_clean_up_of_a_lost_workspace_is_skipped() -> None:
    world = World("..a")
    world.start("x", "a1")
    world.lose("a1")
    assert (world.states(), world.ends()) == ("Fx", "F")


def test_step_after_a_tolerated_loss_has_no_workspace() -> None:
    world = World("?..")
    world.start("x", "a1")
    world.lose("a1")
    assert (world.states(), world.step("a2").failure_reason) == ("FFx", FailureReason.AGENT_LOST)
    assert world.job("a").failure_reason is FailureReason.AGENT_LOST


def test_condition_after_a_tolerated_loss_is_asked_before_the_workspace_is_missed() -> None:
    world = World("?.f.a")
    world.start("x", "a1")
    world.lose("a1")
    assert world.states() == "FxF"


def test_given_up_job_does_not_clean_up() -> None:
    world = World("..a")
    world.start("x", "a1")
    world.fail_job("a", "no disk")
    assert (world.states(), world.ends()) == ("Fx", "F")


def test_step_that_cannot_be_sent_fails_and_the_clean_up_goes_on() -> None:
    world = World("..a")
    world.claim("x", "a1")
    world.fail_waiting(world.step("a1").id)
    assert (world.states(), world.step("a1").failure_reason) == ("FQ", FailureReason.VALIDATION)
