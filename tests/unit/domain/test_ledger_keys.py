"""Concurrency keys: a job with a key waits until it has it, and gives it back with its end, whatever ended it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from arcentra_server.domain.execution import CancelCause, Waiting
from arcentra_server.domain.states import RunStatus
from arcentra_server.domain.states import StepStatus as S
from tests.support.ledger_world import World, finish_all, new_store


def two_runs(shape: str = "..[key=k]") -> tuple[World, World]:
    store = new_store()
    return World(shape, store), World(shape, store)


def test_job_waits_for_its_key() -> None:
    world = World(".[key=k]")
    assert (world.states(), world.job("a").waits_for) == ("P", Waiting.CONCURRENCY)
    assert world.give_key("a")
    assert (world.states(), world.job("a").waits_for) == ("Q", Waiting.NOTHING)


def test_oldest_run_has_it_first() -> None:
    old, young = two_runs()
    assert not young.give_key("a")
    assert old.give_key("a")
    assert not young.give_key("a")
    old.finish("x", "a1", "a2")
    assert young.give_key("a")


def test_as_many_have_it_as_there_are_places() -> None:
    world = World(".[key=k;most=2] .[key=k;most=2] .[key=k;most=2]")
    assert [world.give_key(name) for name in "abc"] == [True, True, False]
    world.finish("x", "b1")
    assert world.give_key("c")


def test_keys_of_other_names_are_no_hindrance() -> None:
    world = World(".[key=k] .[key=l]")
    assert [world.give_key(name) for name in "ab"] == [True, True]


def test_key_is_wanted_when_the_turn_of_the_job_has_come() -> None:
    world = World(". .[needs=a;key=k] | .[key=k]")
    assert world.store.rows.claims == {}
    world.finish("x", "a1")
    assert list(world.store.rows.claims) == [world.job_ids["b"]]


def test_skipped_job_wants_no_key() -> None:
    world = World(". .[needs=a;key=k] .[key=k;when=n]")
    world.finish("x", "a1", status=S.FAILED)
    assert world.store.rows.claims == {}


def run_to(status: S) -> Callable[[World], None]:
    return lambda world: (
        world.finish("x", "a1", "a2", status=status) if status is S.SUCCESS else world.finish("x", "a1", status=status)
    )


def stop(world: World) -> None:
    world.start("x", "a1")
    world.stop()
    world.report("x", "a1", S.CANCELLED)


def time_out(world: World) -> None:
    world.start("x", "a1")
    world.cancel_job("a", cause=CancelCause.TIMEOUT)
    world.report("x", "a1", S.CANCELLED)


def lose(world: World) -> None:
    world.start("x", "a1")
    world.lose("a1")


def give_up(world: World) -> None:
    world.start("x", "a1")
    world.fail_job("a")


ENDS: list[Callable[[World], None]] = [
    run_to(S.SUCCESS),
    run_to(S.FAILED),
    lambda world: world.cancel_job("a"),
    lambda world: world.cancel_step("a1"),
    stop,
    time_out,
    lose,
    give_up,
]


@pytest.mark.parametrize("end", ENDS)
def test_whatever_ends_the_job_gives_the_key_back(end: Callable[[World], None]) -> None:
    old, young = two_runs()
    old.give_key("a")
    end(old)
    assert old.run.status.terminal
    assert young.give_key("a")


@pytest.mark.parametrize("end", [lambda world: world.cancel_job("a"), lambda world: world.stop()])
def test_who_waits_and_is_cancelled_waits_no_more(end: Callable[[World], None]) -> None:
    old, young = two_runs()
    end(old)
    assert (old.run.status, len(old.store.rows.claims)) == (RunStatus.CANCELLED, 1)
    assert young.give_key("a")


def test_key_is_kept_over_attempts() -> None:
    old, young = two_runs("..[key=k;retry=2]")
    old.give_key("a")
    old.finish("x", "a1", status=S.FAILED)
    assert old.states() == "QP"
    assert not young.give_key("a")
    old.finish("x", "a1", status=S.FAILED)
    assert young.give_key("a")


def test_key_is_kept_at_the_gate_of_the_job() -> None:
    old, young = two_runs(".[key=k;gate]")
    old.give_key("a")
    old.finish("x", "a1")
    assert not young.give_key("a")
    old.approve("a")
    assert young.give_key("a")


def test_retry_of_a_job_wants_its_key_again() -> None:
    old, young = two_runs()
    old.give_key("a")
    old.finish("x", "a1", status=S.FAILED)
    young.give_key("a")
    old.retry("a1")
    assert (old.states(), old.give_key("a")) == ("PP", False)
    finish_all(young, "x")
    finish_all(old, "x")
    assert old.run.status is RunStatus.SUCCESS


def test_key_is_not_given_twice() -> None:
    world = World(".[key=k]")
    assert [world.give_key("a"), world.give_key("a")] == [True, False]


def test_paused_run_is_passed_over() -> None:
    old, young = two_runs()
    old.pause()
    assert [old.give_key("a"), young.give_key("a")] == [False, True]
    old.resume()
    finish_all(young, "x")
    assert old.give_key("a")


def test_paused_run_keeps_the_key_that_it_has_and_starts_nothing() -> None:
    old, young = two_runs()
    old.give_key("a")
    old.pause()
    row = old.queued("a1")
    assert row is not None
    assert row.held
    assert not young.give_key("a")
