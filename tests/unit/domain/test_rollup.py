"""The state of a parent, evaluated a second time by asking what occurs among its children."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_server.domain.rollup import (
    NOTHING_YET,
    blocks,
    graver,
    job_contribution,
    job_outcome,
    run_outcome,
    step_contribution,
)
from arcentra_server.domain.states import RUN_TERMINAL, STEP_TERMINAL
from arcentra_server.domain.states import RunStatus as R
from arcentra_server.domain.states import StepStatus as S

ENDS = st.sampled_from(sorted(RUN_TERMINAL))
STEPS = st.lists(st.tuples(st.sampled_from(sorted(STEP_TERMINAL)), st.booleans()), max_size=6)
JOBS = st.lists(ENDS, max_size=6)


def expected_job(steps: list[tuple[S, bool]]) -> R:
    counting = {status for status, tolerated in steps if not (tolerated and status in (S.FAILED, S.TIMEOUT))}
    for status in (S.CANCELLED, S.FAILED, S.TIMEOUT):
        if status in counting:
            return R(status.value)
    if any(tolerated and status in (S.FAILED, S.TIMEOUT) for status, tolerated in steps):
        return R.PARTIAL
    return R.SUCCESS if S.SUCCESS in counting else R.SKIPPED


def expected_run(jobs: list[R]) -> R:
    if R.CANCELLED in jobs:
        return R.CANCELLED
    if R.FAILED in jobs or R.TIMEOUT in jobs:
        return R.FAILED
    return R.PARTIAL if R.PARTIAL in jobs else R.SUCCESS


@given(STEPS)
def test_job_follows_from_its_steps(steps: list[tuple[S, bool]]) -> None:
    assert job_outcome(steps) is expected_job(steps)


@given(JOBS)
def test_run_follows_from_its_jobs(jobs: list[R]) -> None:
    assert run_outcome(jobs) is expected_run(jobs)


@given(JOBS, JOBS)
def test_the_gravest_so_far_can_be_kept(one: list[R], other: list[R]) -> None:
    def fold(statuses: list[R]) -> R:
        return reduce(graver, statuses, NOTHING_YET)

    assert graver(fold(one), fold(other)) is fold(one + other) is fold(other + one)


@given(ENDS, ENDS)
def test_graver_answers_one_of_the_two_that_ended_worse(one: R, other: R) -> None:
    order = [R.SKIPPED, R.SUCCESS, R.PARTIAL, R.TIMEOUT, R.FAILED, R.CANCELLED]
    assert graver(one, other) is max(one, other, key=order.index)


@pytest.mark.parametrize("status", sorted(STEP_TERMINAL))
def test_contribution_of_a_step(status: S) -> None:
    assert step_contribution(status, continue_on_error=False) is R(status.value)
    tolerated = step_contribution(status, continue_on_error=True)
    assert tolerated is (R.PARTIAL if status in (S.FAILED, S.TIMEOUT) else R(status.value))


def test_contribution_of_a_job() -> None:
    assert job_contribution(R.TIMEOUT) is R.FAILED
    assert all(job_contribution(status) is status for status in RUN_TERMINAL - {R.TIMEOUT})


def test_what_blocks() -> None:
    assert {status for status in RUN_TERMINAL if blocks(status)} == {R.TIMEOUT, R.FAILED, R.CANCELLED}
