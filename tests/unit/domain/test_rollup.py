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
    gravest,
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


def expected_run(jobs: list[tuple[R, bool]]) -> R:
    ends = [status for status, _ in jobs]
    failed = [tolerated for status, tolerated in jobs if status in (R.FAILED, R.TIMEOUT)]
    if R.CANCELLED in ends:
        return R.CANCELLED
    if not all(failed):
        return R.FAILED
    return R.PARTIAL if failed or R.PARTIAL in ends else R.SUCCESS


@given(STEPS)
def test_job_follows_from_its_steps(steps: list[tuple[S, bool]]) -> None:
    assert job_outcome(steps) is expected_job(steps)


@given(st.lists(st.tuples(ENDS, st.booleans()), max_size=6))
def test_run_follows_from_its_jobs(jobs: list[tuple[R, bool]]) -> None:
    contributions = [job_contribution(status, allow_failure=tolerated) for status, tolerated in jobs]
    assert run_outcome(contributions) is expected_run(jobs)


@given(JOBS)
def test_gravest_of_many_is_the_gravest_of_two_at_a_time(ends: list[R]) -> None:
    assert gravest(ends) is reduce(graver, ends, NOTHING_YET)


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


def test_contribution_of_a_job_that_may_fail() -> None:
    tolerated = {status: job_contribution(status, allow_failure=True) for status in RUN_TERMINAL}
    assert {status for status, added in tolerated.items() if added is not status} == {R.FAILED, R.TIMEOUT}
    assert tolerated[R.FAILED] is tolerated[R.TIMEOUT] is R.PARTIAL


def test_what_blocks() -> None:
    assert {status for status in RUN_TERMINAL if blocks(status)} == {R.TIMEOUT, R.FAILED, R.CANCELLED}
