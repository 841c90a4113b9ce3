"""The state machines: which state may follow which. Nothing else decides that.

A retry is a new step run with an id of its own, so the end of a step run is final. A job run and a pipeline run are
functions of their children and open again when a step of theirs is retried.
"""

from __future__ import annotations

from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.states import RunStatus, StepStatus

S, R = StepStatus, RunStatus

STEP_TRANSITIONS: dict[StepStatus, frozenset[StepStatus]] = {
    S.PENDING: frozenset({S.QUEUED, S.SKIPPED, S.CANCELLED}),
    S.QUEUED: frozenset({S.RUNNING, S.CANCELLED, S.TIMEOUT, S.SKIPPED}),
    S.RUNNING: frozenset({S.SUCCESS, S.FAILED, S.CANCELLED, S.TIMEOUT}),
    S.SUCCESS: frozenset(),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
    S.TIMEOUT: frozenset(),
    S.SKIPPED: frozenset(),
}

_JOB_END = frozenset({R.SUCCESS, R.FAILED, R.CANCELLED, R.PARTIAL, R.TIMEOUT, R.SKIPPED})
_RUN_END = frozenset({R.SUCCESS, R.FAILED, R.CANCELLED, R.PARTIAL})

JOB_TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    # A queued step may end without having run, and its job with it.
    R.PENDING: (_JOB_END | {R.RUNNING}) - {R.SUCCESS},
    R.RUNNING: _JOB_END - {R.SKIPPED},
    # Ended, and opened again by the retry of one of its steps.
    **dict.fromkeys(_JOB_END, frozenset({R.PENDING})),
}

RUN_TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    R.PENDING: _RUN_END | {R.RUNNING, R.PAUSED},
    R.RUNNING: _RUN_END | {R.PAUSED},
    # While it is paused its running steps may end, and with them the run.
    R.PAUSED: _RUN_END | {R.PENDING, R.RUNNING},
    **dict.fromkeys(_RUN_END, frozenset({R.RUNNING})),
}


def check_step_transition(source: StepStatus, destination: StepStatus) -> None:
    """Raise InvalidTransition unless a step run may go from `source` to `destination`."""
    if destination not in STEP_TRANSITIONS[source]:
        if source.terminal:
            raise InvalidTransition("step run already finished")
        raise InvalidTransition(f"a step run cannot go from {source} to {destination}")


def check_job_transition(source: RunStatus, destination: RunStatus) -> None:
    """Raise InvalidTransition unless a job run may go from `source` to `destination`."""
    if destination not in JOB_TRANSITIONS.get(source, frozenset()):
        raise InvalidTransition(f"a job run cannot go from {source} to {destination}")


def check_run_transition(source: RunStatus, destination: RunStatus) -> None:
    """Raise InvalidTransition unless a pipeline run may go from `source` to `destination`."""
    if destination not in RUN_TRANSITIONS.get(source, frozenset()):
        raise InvalidTransition(f"a pipeline run cannot go from {source} to {destination}")
