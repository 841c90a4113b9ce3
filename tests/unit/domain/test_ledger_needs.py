"""Jobs that need others, and stages after one that failed: who runs, who is skipped, and how that ends."""

from __future__ import annotations

import pytest

from arcentra_server.domain.execution import Waiting
from arcentra_server.domain.states import RunStatus
from arcentra_server.domain.states import StepStatus as S
from tests.support.ledger_world import World, finish_all


def test_job_waits_for_all_that_it_needs() -> None:
    world = World(". . .[needs=a,b]")
    assert (world.states(), world.job("c").waits_for, world.job("c").open_needs) == ("Q Q P", Waiting.NEEDS, 2)
    world.finish("x", "a1")
    assert (world.states(), world.job("c").open_needs) == ("S Q P", 1)
    world.finish("x", "b1")
    assert (world.states(), world.job("c").waits_for) == ("S S Q", Waiting.NOTHING)


def test_two_needs_that_end_in_one_change() -> None:
    world = World(". . .[needs=a,b]")
    world.start("x", "a1", "b1")
    world.lose("a1", "b1")
    assert (world.states(), world.run.status) == ("F F x", RunStatus.FAILED)


def test_diamond_runs_in_its_order() -> None:
    world = World(". .[needs=a] .[needs=a] .[needs=b,c]")
    assert world.states() == "Q P P P"
    world.finish("x", "a1")
    assert world.states() == "S Q Q P"
    world.finish("x", "b1", "c1", "d1")
    assert world.run.status is RunStatus.SUCCESS


@pytest.mark.parametrize("status", [S.FAILED, S.TIMEOUT, S.CANCELLED])
def test_what_needs_a_job_that_did_not_end_well_is_skipped_and_what_needs_that_too(status: S) -> None:
    world = World(". .[needs=a] .[needs=b] .")
    world.finish("x", "a1", status=status)
    assert world.states() == f"{status.value[0]} x x Q"
    assert [world.job(name).status for name in "bc"] == [RunStatus.SKIPPED] * 2
    world.finish("x", "d1")
    assert world.run.status is (RunStatus.CANCELLED if status is S.CANCELLED else RunStatus.FAILED)


@pytest.mark.parametrize("shape", ["? .[needs=a]", ".[allow] .[needs=a]"])
def test_tolerated_failure_lets_what_needs_it_run(shape: str) -> None:
    world = World(shape)
    world.finish("x", "a1", status=S.FAILED)
    assert world.states() == "F Q"
    world.finish("x", "b1")
    assert (world.run.status, world.run.failed_jobs) == (RunStatus.PARTIAL, int("allow" in shape))


def test_skipped_need_is_no_success_and_no_failure() -> None:
    world = World(".[when=n] .[needs=a] .[needs=a;when=f] .[needs=a;when=c] .[needs=a;when=a]")
    assert (world.states(), world.ends()) == ("x x x x Q", "xxxx-")
    world.finish("x", "e1")
    assert world.run.status is RunStatus.SUCCESS


def test_failure_is_seen_through_what_was_skipped() -> None:
    world = World(". .[needs=a] .[needs=b;when=f]")
    world.finish("x", "a1", status=S.FAILED)
    assert world.states() == "F x Q"
    world.finish("x", "c1")
    assert world.run.status is RunStatus.FAILED


def test_cancellation_is_seen_through_what_was_skipped() -> None:
    world = World(". .[needs=a] .[needs=b;when=c] .[needs=b;when=f]")
    world.cancel_job("a")
    assert world.states() == "C x Q x"


def test_condition_is_asked_when_all_needs_have_ended() -> None:
    world = World(". . .[needs=a,b;when=f]")
    world.finish("x", "a1", status=S.FAILED)
    assert world.states() == "F Q P"
    world.finish("x", "b1")
    assert world.states() == "F S Q"


def test_what_needs_nothing_goes_on_beside_a_failure() -> None:
    world = World(". ..")
    world.finish("x", "a1", status=S.FAILED)
    world.finish("y", "b1", "b2")
    assert (world.ends(), world.run.status) == ("FS", RunStatus.FAILED)


def test_stage_after_a_failure_is_entered_for_what_has_a_condition() -> None:
    world = World(". | .[when=a] . .[when=f] .[when=c] .[when=s] | .")
    world.finish("x", "a1", status=S.FAILED)
    assert world.states() == "F Q x Q x x P"
    world.finish("x", "b1", "d1")
    assert (world.ends(), world.run.status) == ("FSxSxxx", RunStatus.FAILED)


def test_what_needs_a_clean_up_in_a_stage_after_a_failure_is_skipped() -> None:
    world = World(". | .[when=a] .[needs=b]")
    world.finish("x", "a1", status=S.FAILED)
    world.finish("x", "b1")
    assert world.ends() == "FSx"


def test_stage_of_skipped_jobs_is_no_hindrance() -> None:
    world = World(".[when=n] | .[when=n] | .")
    assert world.states() == "x x Q"
    world.finish("x", "c1")
    assert world.run.status is RunStatus.SUCCESS


def test_run_of_skipped_jobs_succeeds() -> None:
    world = World(".[when=n] .[needs=a] | .[when=f]")
    assert (world.states(), world.ends(), world.run.status) == ("x x x", "xxx", RunStatus.SUCCESS)


def test_need_that_ends_before_its_stage_is_open_is_counted() -> None:
    world = World(". | . .[needs=b;when=a]")
    world.cancel_job("b")
    assert (world.states(), world.job("c").open_needs) == ("Q C P", 0)
    world.finish("x", "a1")
    assert world.states() == "S C Q"


@pytest.mark.parametrize("shape", [". . .[needs=a,b]", ". . .[needs=a,b;when=a]"])
def test_job_that_is_cancelled_while_it_waits_hears_no_more_of_its_needs(shape: str) -> None:
    world = World(shape)
    world.cancel_job("c")
    finish_all(world, "x")
    assert (world.ends(), world.run.status) == ("SSC", RunStatus.CANCELLED)


def test_outputs_of_a_job_are_evaluated_when_it_has_ended() -> None:
    world = World(". .[needs=a]")
    world.finish("x", "a1", status=S.FAILED)
    assert world.store.rows.outputs == {world.job_ids["a"]: "FAILED"}  # what was skipped has none
