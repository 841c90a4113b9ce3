"""The state of a parent is a pure function of its children: the gravest of what they contribute."""

from __future__ import annotations

from collections.abc import Iterable

from arcentra_server.domain.states import RUN_FAILURES, RunStatus, StepStatus

_GRAVITY = {
    status: gravity
    for gravity, status in enumerate(
        (
            RunStatus.SKIPPED,
            RunStatus.SUCCESS,
            RunStatus.PARTIAL,
            RunStatus.TIMEOUT,
            RunStatus.FAILED,
            RunStatus.CANCELLED,
        )
    )
}
NOTHING_YET = RunStatus.SKIPPED


def graver(one: RunStatus, other: RunStatus) -> RunStatus:
    """Return the graver of two end states. Associative, so a parent can keep the gravest so far."""
    return one if _GRAVITY[one] >= _GRAVITY[other] else other


def step_contribution(status: StepStatus, *, continue_on_error: bool) -> RunStatus:
    """Return what the end of one step adds to its job."""
    if status in (StepStatus.FAILED, StepStatus.TIMEOUT) and continue_on_error:
        return RunStatus.PARTIAL
    return RunStatus(status.value)


def job_contribution(status: RunStatus, *, allow_failure: bool = False) -> RunStatus:
    """Return what the end of one job adds to its run. A run has no end state of its own for a timeout."""
    if status in RUN_FAILURES:
        return RunStatus.PARTIAL if allow_failure else RunStatus.FAILED
    return status


def job_outcome(steps: Iterable[tuple[StepStatus, bool]]) -> RunStatus:
    """Return the end state of a job from the last attempts of its steps: (status, continue_on_error) of each."""
    outcome = NOTHING_YET
    for status, continue_on_error in steps:
        outcome = graver(outcome, step_contribution(status, continue_on_error=continue_on_error))
    return outcome


def run_outcome(contributions: Iterable[RunStatus]) -> RunStatus:
    """Return the end state of a run from what its jobs contribute."""
    outcome = gravest(contributions)
    return RunStatus.SUCCESS if outcome is NOTHING_YET else outcome


def gravest(outcomes: Iterable[RunStatus]) -> RunStatus:
    """Return the gravest of end states, `NOTHING_YET` of none."""
    outcome = NOTHING_YET
    for status in outcomes:
        outcome = graver(outcome, status)
    return outcome


def blocks(outcome: RunStatus) -> bool:
    """Answer whether work that depends on this outcome must not start."""
    return _GRAVITY[outcome] > _GRAVITY[RunStatus.PARTIAL]
