"""Which reports are refused, which are repeated, and that a refused one changes nothing."""

from __future__ import annotations

from uuid import UUID

import pytest

from arcentra_server.domain.errors import ArcentraError, InvalidTransition, LeaseLost, NotLeased
from arcentra_server.domain.execution import StepReport
from arcentra_server.domain.states import FailureReason, RunStatus
from arcentra_server.domain.states import StepStatus as S
from tests.support.ledger_store import LedgerStore
from tests.support.ledger_view import AGENTS
from tests.support.ledger_world import World


def refused(world: World, error: type[ArcentraError], agent: str, step: str, status: S, **kept: int | str) -> None:
    before = (world.states(), world.run, dict(world.store.rows.leases), len(world.store.rows.events))
    attempt, token = int(kept.get("attempt", 0)), str(kept.get("token", ""))
    with pytest.raises(error) as caught:
        world.report(agent, step, status, attempt=attempt, token=token)
    assert type(caught.value) is error
    assert (world.states(), world.run, dict(world.store.rows.leases), len(world.store.rows.events)) == before


def test_unknown_step() -> None:
    world = World(".")
    [verdict] = world.store.take([StepReport(AGENTS["x"], UUID(int=7), S.RUNNING)])
    assert isinstance(verdict, NotLeased)


def test_step_that_is_not_leased() -> None:
    refused(World("."), NotLeased, "x", "a1", S.RUNNING)


def test_step_whose_turn_has_not_come() -> None:
    world = World("..")
    world.start("x", "a1")
    refused(world, NotLeased, "x", "a2", S.RUNNING)


@pytest.mark.parametrize("status", [S.RUNNING, S.SUCCESS, S.FAILED, S.CANCELLED])
def test_step_of_another_agent(status: S) -> None:
    world = World(".")
    world.start("x", "a1")
    refused(world, NotLeased, "y", "a1", status)


def test_finished_step_of_another_agent() -> None:
    world = World(".")
    world.finish("x", "a1")
    refused(world, NotLeased, "y", "a1", S.SUCCESS)


def test_success_before_the_start() -> None:
    world = World(".")
    world.claim("x", "a1")
    refused(world, InvalidTransition, "x", "a1", S.SUCCESS)


def test_agent_that_cannot_start_a_step_may_say_so() -> None:
    world = World(". .[needs=a]")
    world.claim("x", "a1")
    world.report("x", "a1", S.FAILED, reason=FailureReason.PLUGIN_MISSING)
    assert (world.states(), world.job("a").failure_reason) == ("F x", FailureReason.PLUGIN_MISSING)
    assert (world.ends(), world.store.rows.leases) == ("Fx", {})


@pytest.mark.parametrize("status", [S.PENDING, S.QUEUED, S.SKIPPED])
def test_way_back(status: S) -> None:
    world = World(".")
    world.start("x", "a1")
    refused(world, InvalidTransition, "x", "a1", status)


@pytest.mark.parametrize("first", [S.SUCCESS, S.FAILED, S.TIMEOUT, S.CANCELLED])
@pytest.mark.parametrize("then", [S.RUNNING, S.SUCCESS, S.FAILED, S.CANCELLED, S.TIMEOUT])
def test_end_is_final(first: S, then: S) -> None:
    world = World(".")
    world.finish("x", "a1", status=first)
    if then is first:
        world.report("x", "a1", then)  # a repeat
        assert world.step("a1").status is first
    else:
        refused(world, InvalidTransition, "x", "a1", then)


def test_stale_attempt() -> None:
    world = World(".")
    world.claim("x", "a1")
    refused(world, LeaseLost, "x", "a1", S.RUNNING, attempt=2)


def test_right_attempt_and_token() -> None:
    world = World(".")
    world.claim("x", "a1")
    lease = world.lease("a1")
    assert lease is not None
    world.report("x", "a1", S.RUNNING, attempt=1, token=LedgerStore.token(lease.id))
    assert world.states() == "R"


def test_wrong_token() -> None:
    world = World(".")
    world.claim("x", "a1")
    refused(world, LeaseLost, "x", "a1", S.RUNNING, token="of another lease")


def test_token_of_the_lease_before() -> None:
    world = World(".")
    world.claim("x", "a1")
    old = world.lease("a1")
    assert old is not None
    world.lose("a1")
    world.claim("x", "a1")
    refused(world, LeaseLost, "x", "a1", S.RUNNING, token=LedgerStore.token(old.id))


@pytest.mark.parametrize("status", [S.RUNNING, S.SUCCESS, S.FAILED, S.TIMEOUT])
def test_repeat_changes_nothing(status: S) -> None:
    world = World("?.")
    world.start("x", "a1")
    world.report("x", "a1", status)
    before = (world.states(), world.run, world.job("a"), dict(world.store.rows.leases), len(world.store.rows.events))
    world.report("x", "a1", status)
    assert (
        world.states(),
        world.run,
        world.job("a"),
        dict(world.store.rows.leases),
        len(world.store.rows.events),
    ) == before


def test_repeat_in_one_batch() -> None:
    world = World("..")
    world.claim("x", "a1")
    world.report("x", "a1", S.RUNNING, S.RUNNING, S.SUCCESS, S.SUCCESS)
    assert (world.states(), world.job("a").completed_steps) == ("SQ", 1)


@pytest.mark.parametrize("status", [S.CANCELLED, S.TIMEOUT])
def test_repeat_of_an_end_before_the_start(status: S) -> None:
    world = World(".")
    world.claim("x", "a1")
    world.report("x", "a1", status)
    world.report("x", "a1", status)
    assert world.step("a1").status is status


@pytest.mark.parametrize("status", [S.CANCELLED, S.SUCCESS, S.FAILED])
def test_end_that_crosses_the_cancellation_is_taken_as_its_repeat(status: S) -> None:
    world = World(".")
    world.start("x", "a1")
    world.cancel_step("a1")
    world.report("x", "a1", S.CANCELLED)
    world.report("x", "a1", status)
    assert world.states() == "C"


def test_start_after_the_cancellation_is_refused() -> None:
    world = World(".")
    world.start("x", "a1")
    world.cancel_step("a1")
    world.report("x", "a1", S.CANCELLED)
    refused(world, InvalidTransition, "x", "a1", S.RUNNING)


def test_refused_report_leaves_the_rest_of_its_batch() -> None:
    world = World(". .")
    world.claim("x", "a1")
    world.claim("y", "b1")
    reports = [
        StepReport(AGENTS["x"], world.step("a1").id, S.RUNNING),
        StepReport(AGENTS["x"], world.step("b1").id, S.RUNNING),
        StepReport(AGENTS["y"], world.step("b1").id, S.RUNNING),
    ]
    verdicts = world.store.take(reports)
    assert [type(verdict) for verdict in verdicts] == [type(None), NotLeased, type(None)]
    assert (world.states(), world.run.running_jobs, world.run.status) == ("R R", 2, RunStatus.RUNNING)
