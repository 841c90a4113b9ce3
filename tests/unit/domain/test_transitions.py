"""Every pair of states: what may follow, spelled out here a second time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.states import (
    RUN_TERMINAL,
    STEP_TERMINAL,
    AgentStatus,
    ApprovalState,
    GateState,
    RunStatus,
    StepStatus,
    agent_status,
)
from arcentra_server.domain.transitions import (
    APPROVAL_TRANSITIONS,
    GATE_TRANSITIONS,
    JOB_TRANSITIONS,
    RUN_TRANSITIONS,
    STEP_TRANSITIONS,
    check_approval_transition,
    check_gate_transition,
    check_job_transition,
    check_run_transition,
    check_step_transition,
)

STEPS = """
    PENDING QUEUED, PENDING SKIPPED, PENDING CANCELLED, PENDING FAILED,
    QUEUED RUNNING, QUEUED FAILED, QUEUED CANCELLED, QUEUED TIMEOUT, QUEUED SKIPPED,
    RUNNING SUCCESS, RUNNING FAILED, RUNNING CANCELLED, RUNNING TIMEOUT
"""
JOBS = """
    PENDING RUNNING, PENDING FAILED, PENDING CANCELLED, PENDING PARTIAL, PENDING SKIPPED, PENDING TIMEOUT,
    RUNNING SUCCESS, RUNNING FAILED, RUNNING CANCELLED, RUNNING PARTIAL, RUNNING TIMEOUT, RUNNING PENDING,
    SUCCESS PENDING, FAILED PENDING, CANCELLED PENDING, PARTIAL PENDING, SKIPPED PENDING, TIMEOUT PENDING
"""
RUNS = """
    PENDING RUNNING, PENDING PAUSED, PENDING SUCCESS, PENDING FAILED, PENDING CANCELLED, PENDING PARTIAL,
    RUNNING PAUSED, RUNNING SUCCESS, RUNNING FAILED, RUNNING CANCELLED, RUNNING PARTIAL,
    PAUSED PENDING, PAUSED RUNNING, PAUSED SUCCESS, PAUSED FAILED, PAUSED CANCELLED, PAUSED PARTIAL,
    SUCCESS RUNNING, FAILED RUNNING, CANCELLED RUNNING, PARTIAL RUNNING
"""
GATES = """
    REQUIRED WAITING, WAITING APPROVED, WAITING REJECTED, WAITING REQUIRED, APPROVED REQUIRED, REJECTED REQUIRED
"""
APPROVALS = "PENDING APPROVED, PENDING REJECTED, PENDING EXPIRED, PENDING CANCELLED"


def pairs(text: str) -> set[tuple[str, str]]:
    return {(source, to) for source, to in (pair.split() for pair in text.split(","))}


def allows(check: Callable[[], None]) -> bool:
    try:
        check()
    except InvalidTransition:
        return False
    return True


@pytest.mark.parametrize(("source", "to"), list(product(StepStatus, StepStatus)))
def test_steps(source: StepStatus, to: StepStatus) -> None:
    assert allows(lambda: check_step_transition(source, to)) == ((source, to) in pairs(STEPS))


@pytest.mark.parametrize(("source", "to"), list(product(RunStatus, RunStatus)))
def test_jobs(source: RunStatus, to: RunStatus) -> None:
    assert allows(lambda: check_job_transition(source, to)) == ((source, to) in pairs(JOBS))


@pytest.mark.parametrize(("source", "to"), list(product(RunStatus, RunStatus)))
def test_runs(source: RunStatus, to: RunStatus) -> None:
    assert allows(lambda: check_run_transition(source, to)) == ((source, to) in pairs(RUNS))


@pytest.mark.parametrize(("source", "to"), list(product(GateState, GateState)))
def test_gates(source: GateState, to: GateState) -> None:
    assert allows(lambda: check_gate_transition(source, to)) == ((source, to) in pairs(GATES))


@pytest.mark.parametrize(("source", "to"), list(product(ApprovalState, ApprovalState)))
def test_approvals(source: ApprovalState, to: ApprovalState) -> None:
    assert allows(lambda: check_approval_transition(source, to)) == ((source, to) in pairs(APPROVALS))


def test_tables_are_whole() -> None:
    assert set(STEP_TRANSITIONS) == set(StepStatus)
    assert set(JOB_TRANSITIONS) == set(RunStatus) - {RunStatus.PAUSED}
    assert set(RUN_TRANSITIONS) == set(RunStatus) - {RunStatus.SKIPPED, RunStatus.TIMEOUT}
    assert set(GATE_TRANSITIONS) == set(GateState) - {GateState.NONE}
    assert set(APPROVAL_TRANSITIONS) == set(ApprovalState)


def test_the_end_of_a_step_is_final() -> None:
    assert {status for status in StepStatus if not STEP_TRANSITIONS[status]} == STEP_TERMINAL
    assert all(status.terminal == (status in STEP_TERMINAL) for status in StepStatus)


def test_every_state_of_a_job_or_run_either_ends_it_or_goes_on() -> None:
    assert {status for status in RunStatus if not status.terminal} == {
        RunStatus.PENDING,
        RunStatus.RUNNING,
        RunStatus.PAUSED,
    }
    for table in (JOB_TRANSITIONS, RUN_TRANSITIONS):
        ends = set(table) & RUN_TERMINAL
        assert all(not following & RUN_TERMINAL for status, following in table.items() if status in ends)


def test_a_finished_step_is_named_as_such() -> None:
    with pytest.raises(InvalidTransition, match="already finished"):
        check_step_transition(StepStatus.SUCCESS, StepStatus.RUNNING)
    with pytest.raises(InvalidTransition, match="from PENDING to RUNNING"):
        check_step_transition(StepStatus.PENDING, StepStatus.RUNNING)


def test_a_decision_is_made_once() -> None:
    with pytest.raises(InvalidTransition, match="already decided"):
        check_approval_transition(ApprovalState.EXPIRED, ApprovalState.APPROVED)
    with pytest.raises(InvalidTransition, match="from REQUIRED to APPROVED"):
        check_gate_transition(GateState.REQUIRED, GateState.APPROVED)


@pytest.mark.parametrize(
    ("capacity", "running", "status"),
    [
        (2, 0, AgentStatus.IDLE),
        (2, 1, AgentStatus.ONLINE),
        (2, 2, AgentStatus.BUSY),
        (2, 3, AgentStatus.BUSY),
        (1, 1, AgentStatus.BUSY),
    ],
)
def test_state_of_an_agent(capacity: int, running: int, status: AgentStatus) -> None:
    assert agent_status(capacity, running) is status


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("approved", [False, True])
@pytest.mark.parametrize("disabled", [False, True])
@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize("running", [0, 1, 2])
def test_what_is_wanted_of_an_agent_comes_before_what_it_does(
    away: bool, approved: bool, disabled: bool, draining: bool, running: int
) -> None:
    first = (
        (AgentStatus.OFFLINE, away),
        (AgentStatus.PENDING_APPROVAL, not approved),
        (AgentStatus.DISABLED, disabled),
        (AgentStatus.DRAINING, draining),
        (agent_status(2, running), True),
    )
    expected = next(status for status, holds in first if holds)
    done = agent_status(2, running, away=away, approved=approved, disabled=disabled, draining=draining)
    assert done is expected
