"""The state machines: which state may follow which. Nothing else decides that.

A retry is a new step run with an id of its own, so the end of a step run is final. A job run and a pipeline run are
functions of their children and open again when a step of theirs is retried. A gate belongs to a stage or a job; each
time when it is reached there is an approval, which is decided once.
"""

from __future__ import annotations

from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.states import ApprovalState, GateState, RunStatus, StepStatus

S, R, G, A = StepStatus, RunStatus, GateState, ApprovalState

STEP_TRANSITIONS: dict[StepStatus, frozenset[StepStatus]] = {
    # A step may fail without having run: an expression of it is wrong, a secret is missing, its workspace is lost.
    S.PENDING: frozenset({S.QUEUED, S.FAILED, S.SKIPPED, S.CANCELLED}),
    S.QUEUED: frozenset({S.RUNNING, S.FAILED, S.CANCELLED, S.TIMEOUT, S.SKIPPED}),
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
    # Back to PENDING for another attempt, which its retry rule allows.
    R.RUNNING: (_JOB_END - {R.SKIPPED}) | {R.PENDING},
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

# What has no gate, NONE, gets none.
GATE_TRANSITIONS: dict[GateState, frozenset[GateState]] = {
    G.REQUIRED: frozenset({G.WAITING}),
    # Back to REQUIRED when what is behind it was cancelled before anybody decided.
    G.WAITING: frozenset({G.APPROVED, G.REJECTED, G.REQUIRED}),
    # Asked again when the job, or what comes before the stage, is retried.
    G.APPROVED: frozenset({G.REQUIRED}),
    G.REJECTED: frozenset({G.REQUIRED}),
}

APPROVAL_TRANSITIONS: dict[ApprovalState, frozenset[ApprovalState]] = {
    A.PENDING: frozenset({A.APPROVED, A.REJECTED, A.EXPIRED, A.CANCELLED}),
    **dict.fromkeys((A.APPROVED, A.REJECTED, A.EXPIRED, A.CANCELLED), frozenset[ApprovalState]()),
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


def check_gate_transition(source: GateState, destination: GateState) -> None:
    """Raise InvalidTransition unless a gate may go from `source` to `destination`."""
    if destination not in GATE_TRANSITIONS.get(source, frozenset()):
        raise InvalidTransition(f"a gate cannot go from {source.name} to {destination.name}")


def check_approval_transition(source: ApprovalState, destination: ApprovalState) -> None:
    """Raise InvalidTransition unless an approval may go from `source` to `destination`."""
    if destination not in APPROVAL_TRANSITIONS[source]:
        if not APPROVAL_TRANSITIONS[source]:
            raise InvalidTransition("approval already decided")
        raise InvalidTransition(f"an approval cannot go from {source} to {destination}")
