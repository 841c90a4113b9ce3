"""Gates: before a stage, and after a job."""

from __future__ import annotations

import pytest

from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.execution import CancelCause, Waiting
from arcentra_server.domain.states import ApprovalState, FailureReason, GateState, RunStatus
from arcentra_server.domain.states import StepStatus as S
from tests.support.ledger_world import World, finish_all


def approvals(world: World) -> list[ApprovalState]:
    return [row.state for row in world.store.rows.approvals.values()]


# Before a stage


def test_stage_waits_at_its_gate() -> None:
    world = World(". | & . .")
    assert world.gates() == []
    world.finish("x", "a1")
    assert (world.states(), world.gates(), world.job("b").waits_for) == ("S P P", ["|1"], Waiting.APPROVAL)
    world.approve("|1")
    assert (world.states(), world.gates()) == ("S Q Q", [])


def test_first_stage_may_have_a_gate() -> None:
    world = World("& .")
    assert (world.states(), world.gates()) == ("P", ["|0"])
    world.approve("|0")
    finish_all(world, "x")
    assert world.run.status is RunStatus.SUCCESS


def test_refused_stage_is_skipped_with_all_behind_it_whatever_their_conditions() -> None:
    world = World(". | & . .[when=a] | .[when=a] .[when=E]")
    world.finish("x", "a1")
    world.refuse("|1")
    assert (world.ends(), world.run.status) == ("Sxxxx", RunStatus.FAILED)
    assert world.run.status_reason == "the approval was refused"


def test_gate_is_not_asked_where_nothing_behind_it_would_run() -> None:
    world = World(". | & . .[needs=b]")
    world.finish("x", "a1", status=S.FAILED)
    assert (world.ends(), approvals(world)) == ("Fxx", [])


def test_gate_is_asked_for_what_runs_after_a_failure() -> None:
    world = World(". | & . .[when=a]")
    world.finish("x", "a1", status=S.FAILED)
    assert (world.states(), world.gates()) == ("F P P", ["|1"])
    world.approve("|1")
    assert world.states() == "F x Q"


def test_gate_is_not_asked_when_all_behind_it_was_cancelled() -> None:
    world = World(". | & .")
    world.cancel_job("b")
    world.finish("x", "a1")
    assert (world.ends(), approvals(world), world.run.status) == ("SC", [], RunStatus.CANCELLED)


def test_gate_is_taken_back_when_all_behind_it_is_cancelled() -> None:
    world = World(". | & . | .[when=a]")
    world.finish("x", "a1")
    world.cancel_job("b")
    assert (world.states(), approvals(world)) == ("S C Q", [ApprovalState.CANCELLED])


@pytest.mark.parametrize("shape", [". | & .", ". | & . | ."])
@pytest.mark.parametrize("verb", ["stop", "time_out"])
def test_end_of_a_run_takes_the_gate_back(shape: str, verb: str) -> None:
    world = World(shape)
    world.finish("x", "a1")
    getattr(world, verb)()
    assert world.run.status is (RunStatus.CANCELLED if verb == "stop" else RunStatus.FAILED)
    assert (world.gates(), approvals(world)) == ([], [ApprovalState.CANCELLED])


def test_pause_holds_what_an_approval_starts() -> None:
    world = World(". | & .")
    world.finish("x", "a1")
    world.pause()
    world.approve("|1")
    row = world.queued("b1")
    assert row is not None
    assert row.held


def test_retry_of_a_job_before_the_gate_waits_for_it() -> None:
    world = World(". | & . .")
    world.finish("x", "a1")
    world.cancel_job("b")
    world.retry("b1")
    assert (world.states(), world.gates(), world.job("b").waits_for) == ("S P P", ["|1"], Waiting.APPROVAL)
    world.approve("|1")
    assert world.states() == "S Q Q"


def test_nothing_is_added_behind_a_gate() -> None:
    world = World(". | & .")
    with pytest.raises(InvalidTransition, match="approval"):
        world.add_step("b")
    world.add_step("a")
    finish_all(world, "x")
    assert world.states() == "SS S"


def test_job_that_is_added_at_a_gate_waits_for_it() -> None:
    world = World(". | & .")
    world.finish("x", "a1")
    name = world.add_job(gated=True)
    assert (world.states(), world.job(name).waits_for) == ("S P P", Waiting.APPROVAL)
    world.approve("|1")
    assert world.states() == "S Q Q"


def test_job_that_is_added_at_a_gate_is_skipped_with_it() -> None:
    world = World(". | & .")
    world.finish("x", "a1")
    world.add_job(gated=True)
    world.refuse("|1")
    assert (world.ends(), world.run.status) == ("Sxx", RunStatus.FAILED)


# After a job


@pytest.mark.parametrize("steps", [".", "?"])
def test_job_waits_at_its_gate_before_anything_goes_on(steps: str) -> None:
    world = World(f"{steps}[gate] .[needs=a] | .")
    world.finish("x", "a1", status=S.FAILED if steps == "?" else S.SUCCESS)
    assert (world.states()[1:], world.gates(), world.job("a").status) == (" P P", ["a"], RunStatus.RUNNING)
    assert world.job("a").waits_for is Waiting.APPROVAL
    world.approve("a")
    assert (world.states()[1:], world.ends()[0]) == (" Q P", "p" if steps == "?" else "S")


def test_workspace_is_released_at_the_gate() -> None:
    world = World(".[gate]")
    world.finish("x", "a1")
    assert [release.job_id for release in world.store.releases] == [world.job_ids["a"]]


@pytest.mark.parametrize("status", [S.FAILED, S.TIMEOUT, S.CANCELLED])
def test_gate_of_a_job_that_did_not_end_well_is_not_asked(status: S) -> None:
    world = World(".[gate]")
    world.finish("x", "a1", status=status)
    assert (world.ends(), approvals(world)) == (status.value[0], [])


def test_gate_of_a_skipped_job_is_not_asked() -> None:
    world = World(".[gate;when=n] .[needs=a;when=a]")
    assert (world.states(), approvals(world)) == ("x Q", [])


def test_refused_job_walls_off_what_needs_it_and_what_needs_that() -> None:
    world = World(".[gate] .[needs=a;when=a] .[needs=b;when=a] .[needs=c;when=E] .. | .[when=a]")
    world.finish("x", "a1", "e1")
    world.refuse("a")
    assert (world.states(), world.ends()) == ("S x x x SQ P", "Fxxx--")
    assert world.job("a").failure_reason is FailureReason.REJECTED
    world.finish("x", "e2")
    assert (world.ends(), world.run.status, world.run.failed_jobs) == ("FxxxSx", RunStatus.FAILED, 1)


def test_refusal_is_not_tolerated() -> None:
    world = World(".[gate;allow] .[needs=a] | .")
    world.finish("x", "a1")
    world.refuse("a")
    assert (world.ends(), world.run.status) == ("Fxx", RunStatus.FAILED)


@pytest.mark.parametrize("after", [".[needs=a]", ".[needs=a;when=a]", "| .", "| .[when=a]"])
def test_gate_of_a_job_that_was_allowed_to_fail_is_asked(after: str) -> None:
    world = World(f".[gate;allow] {after}")
    world.finish("x", "a1", status=S.FAILED)
    assert (world.states(), world.gates()) == ("F P", ["a"])
    world.approve("a")
    finish_all(world, "x")
    assert (world.ends(), world.run.status) == ("FS", RunStatus.PARTIAL)


@pytest.mark.parametrize("job", [".[gate;allow;when=E]", ".a[gate;allow]", ".E[gate;allow]"])
def test_gate_is_asked_whatever_the_tolerated_failure_was(job: str) -> None:
    world = World(f"{job} .[needs=a;when=a]")
    if world.queued("a1") is not None:
        world.start("x", "a1")
        world.cancel_job("a", cause=CancelCause.TIMEOUT)
        world.report("x", "a1", S.SUCCESS)
    assert (world.gates(), world.states()[-1]) == (["a"], "P")
    world.refuse("a")
    assert (world.ends(), world.run.status) == ("Fx", RunStatus.FAILED)


def test_gate_of_a_tolerated_failure_is_not_asked_when_the_time_of_the_run_is_over() -> None:
    world = World(".[gate;allow] .[needs=a;when=a]")
    world.start("x", "a1")
    world.time_out()
    world.report("x", "a1", S.FAILED)
    assert (approvals(world), world.run.status) == ([], RunStatus.FAILED)


@pytest.mark.parametrize("status", [S.FAILED, S.TIMEOUT, S.CANCELLED])
def test_nothing_behind_the_gate_of_a_job_that_failed_runs(status: S) -> None:
    world = World(".[gate] .[needs=a;when=a] .[needs=b;when=a] . | .[when=a] .[when=E] | .[when=a]")
    world.finish("x", "a1", status=status)
    world.finish("x", "d1")
    assert (world.ends(), approvals(world)) == (f"{status.value[0]}xxSxxx", [])
    assert world.run.status is (RunStatus.CANCELLED if status is S.CANCELLED else RunStatus.FAILED)


def test_cancel_of_a_job_at_its_gate_opens_no_way_past_it() -> None:
    world = World(".[gate] .[needs=a;when=a] | .[when=a]")
    world.finish("x", "a1")
    world.cancel_job("a")
    assert (world.ends(), world.run.status) == ("Cxx", RunStatus.CANCELLED)


@pytest.mark.parametrize("shape", [". .[gate;needs=a] .[needs=b;when=a]", ". | .[gate] | .[when=a]"])
def test_gate_of_a_job_that_was_skipped_after_a_failure_is_a_wall(shape: str) -> None:
    world = World(shape)
    world.finish("x", "a1", status=S.FAILED)
    assert (world.ends(), approvals(world)) == ("Fxx", [])


@pytest.mark.parametrize("job", [".[gate;when=n]", ".n[gate]", ".[when=n;gate;allow]"])
@pytest.mark.parametrize("after", [".[needs=a;when=a]", "| .", "| .[when=a]"])
def test_gate_falls_away_with_a_job_that_is_skipped_while_all_is_well(job: str, after: str) -> None:
    world = World(f"{job} {after}")
    finish_all(world, "x")
    assert (world.ends(), approvals(world)) == ("xS", [])


def test_gate_falls_away_with_a_job_whose_need_was_skipped() -> None:
    world = World(".[when=n] .[gate;needs=a] | .")
    finish_all(world, "x")
    assert world.ends() == "xxS"


def test_refused_job_does_not_run_again_by_itself() -> None:
    world = World(".[gate;retry=3]")
    world.finish("x", "a1")
    world.refuse("a")
    assert (world.ends(), world.job("a").attempt) == ("F", 1)


def test_cancel_of_a_job_at_its_gate() -> None:
    world = World(".[gate] .[needs=a]")
    world.finish("x", "a1")
    world.cancel_job("a", "not wanted")
    assert (world.ends(), world.run.status) == ("Cx", RunStatus.CANCELLED)
    assert (world.gates(), approvals(world)) == ([], [ApprovalState.CANCELLED])
    assert world.job("a").error_message == "not wanted"


@pytest.mark.parametrize("cause", list(CancelCause))
def test_end_of_a_run_whose_job_is_at_its_gate(cause: CancelCause) -> None:
    world = World(".[gate] | .")
    world.finish("x", "a1")
    (world.stop if cause is CancelCause.REQUEST else world.time_out)()
    assert (world.ends(), approvals(world)) == ("CC", [ApprovalState.CANCELLED])


def test_no_step_is_added_to_a_job_at_its_gate() -> None:
    world = World(".[gate]")
    world.finish("x", "a1")
    with pytest.raises(InvalidTransition):
        world.add_step("a")


def test_job_at_its_gate_cannot_be_given_up() -> None:
    world = World(".[gate]")
    world.finish("x", "a1")
    world.fail_job("a")
    assert world.gates() == ["a"]


# Asked again


def test_retry_of_a_job_asks_its_gate_again() -> None:
    world = World(".[gate] .[needs=a]")
    world.finish("x", "a1")
    world.refuse("a")
    world.retry("a1")
    assert (world.states(), world.job("a").gate) == ("Q P", GateState.REQUIRED)
    world.finish("x", "a1")
    world.approve("a")
    finish_all(world, "x")
    assert (world.ends(), world.run.status, len(approvals(world))) == ("SS", RunStatus.SUCCESS, 2)


def test_retry_of_a_refused_stage_asks_its_gate_again() -> None:
    world = World(". | & . | .")
    world.finish("x", "a1")
    world.refuse("|1")
    world.retry("b1")
    assert (world.states(), world.gates()) == ("S P P", ["|1"])
    finish_all(world, "x")
    assert (world.run.status, world.run.rejected) == (RunStatus.SUCCESS, False)


def test_retry_before_a_gate_that_was_passed_asks_it_again() -> None:
    world = World(". | & .")
    world.finish("x", "a1")
    world.approve("|1")
    world.finish("x", "b1", status=S.FAILED)
    world.retry_run(everything=True)
    world.finish("x", "a1")
    assert (world.states(), world.gates()) == ("S P", ["|1"])


def test_retry_behind_a_gate_that_was_passed_does_not_ask_it_again() -> None:
    world = World(". | & .")
    world.finish("x", "a1")
    world.approve("|1")
    world.finish("x", "b1", status=S.FAILED)
    world.retry("b1")
    assert (world.states(), world.gates()) == ("S Q", [])


def test_nothing_is_retried_behind_a_refused_stage() -> None:
    world = World(". | & . | .[when=a]")
    world.finish("x", "a1")
    world.refuse("|1")
    with pytest.raises(InvalidTransition, match="refused"):
        world.retry("c1")
    assert (world.ends(), world.run.status) == ("Sxx", RunStatus.FAILED)


def test_retry_of_what_failed_after_a_refused_stage_asks_again() -> None:
    world = World(". | & . .[needs=b] | .")
    world.finish("x", "a1")
    world.refuse("|1")
    world.retry_run(everything=False)
    assert (world.states(), world.gates()) == ("S P P P", ["|1"])
    finish_all(world, "x")
    assert world.run.status is RunStatus.SUCCESS


def test_retry_of_a_job_in_a_refused_stage_asks_again_for_all_that_was_skipped_there() -> None:
    world = World(". | & .[gate] . | .")
    world.finish("x", "a1")
    world.refuse("|1")
    world.retry("c1")
    assert (world.states(), world.gates()) == ("S P P P", ["|1"])
    world.approve("|1")
    world.finish("x", "b1", "c1")
    assert (world.states(), world.gates()) == ("S S S P", ["b"]), "nothing passes the gate of what was skipped"
    world.approve("b")
    finish_all(world, "x")
    assert (world.ends(), world.run.status) == ("SSSS", RunStatus.SUCCESS)


def test_retry_of_what_was_cancelled_before_a_refused_gate_brings_what_was_skipped_at_it() -> None:
    world = World("& . .[gate] | .")
    world.cancel_job("a")
    world.refuse("|0")
    assert world.ends() == "Cxx"
    world.retry("a1")
    assert (world.states(), world.gates()) == ("P P P", ["|0"])
    finish_all(world, "x")
    assert world.ends() == "SSS"


def test_retry_behind_a_job_without_its_approval_is_refused() -> None:
    world = World(".[gate] .[needs=a;when=a] .[needs=b;when=a] .[needs=a,b]")
    world.finish("x", "a1", status=S.FAILED)
    for step in ("b1", "c1", "d1"):
        with pytest.raises(InvalidTransition, match="without its approval"):
            world.retry(step)
    assert world.ends() == "Fxxx"
    world.retry("a1")
    finish_all(world, "x")
    assert (world.ends(), world.run.status) == ("SSSS", RunStatus.SUCCESS)


def test_need_of_a_job_that_waits_at_its_gate_without_having_run_is_not_retried() -> None:
    world = World(". .E[needs=a;gate;allow] .[needs=b]")
    world.finish("x", "a1")
    assert (world.states(), world.gates(), world.job("b").status) == ("S F P", ["b"], RunStatus.PENDING)
    with pytest.raises(InvalidTransition, match="depends on it goes on"):
        world.retry("a1")
    world.approve("b")
    finish_all(world, "x")
    world.retry("a1")
    finish_all(world, "x")
    assert (world.ends(), world.run.status) == ("SFS", RunStatus.PARTIAL)


def test_retry_of_an_earlier_stage_asks_again_about_a_job_that_was_refused() -> None:
    world = World(". | .[gate] | .[when=a]")
    world.finish("x", "a1", "b1")
    world.refuse("b")
    assert (world.ends(), world.run.status) == ("SFx", RunStatus.FAILED)
    world.retry("a1")
    assert (world.states(), world.job("b").gate) == ("Q P P", GateState.REQUIRED)
    finish_all(world, "x")
    assert (world.ends(), world.run.status, world.run.rejected) == ("SSS", RunStatus.SUCCESS, False)


def test_retry_beside_a_job_that_was_refused_leaves_it_refused() -> None:
    world = World(".[gate] . | .[when=a]")
    world.finish("x", "a1")
    world.finish("x", "b1", status=S.FAILED)
    world.refuse("a")
    world.retry("b1")
    finish_all(world, "x")
    assert (world.ends(), world.run.status, world.run.rejected) == ("FSx", RunStatus.FAILED, True)


def test_retry_of_a_job_that_failed_opens_the_way_to_its_gate_again() -> None:
    world = World(".[gate] .[needs=a;when=a] | .[when=a]")
    world.finish("x", "a1", status=S.FAILED)
    with pytest.raises(InvalidTransition, match="without its approval"):
        world.retry("c1")
    world.retry("a1")
    world.finish("x", "a1")
    assert (world.states(), world.gates()) == ("S P P", ["a"])
    world.approve("a")
    finish_all(world, "x")
    assert (world.ends(), world.run.status) == ("SSS", RunStatus.SUCCESS)


def test_retry_of_what_failed_reaches_what_was_cancelled_behind_a_refused_stage() -> None:
    world = World(". | & . | .")
    world.cancel_job("c")
    world.finish("x", "a1")
    world.refuse("|1")
    world.retry_run(everything=False)
    assert (world.states(), world.gates()) == ("S P P", ["|1"])
