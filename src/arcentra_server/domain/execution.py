"""What runs, as the ledger works on it: runs, stages, jobs, steps and leases, and what is said about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from arcentra_server.domain.definition import RetrySpec
from arcentra_server.domain.rollup import NOTHING_YET, blocks
from arcentra_server.domain.states import FailureReason, GateState, RunStatus, StepStatus


class Resource(StrEnum):
    """What an event is about."""

    STEP = "step"
    JOB = "job"
    RUN = "run"
    AGENT = "agent"


class CancelCause(StrEnum):
    """Why a running step is asked to end; decides the state it ends in."""

    REQUEST = "request"
    TIMEOUT = "timeout"


class Closing(StrEnum):
    """Why no further step of a job gets its turn, whatever its condition says."""

    NO = ""
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    GIVEN_UP = "given_up"


ASKED = ""
"""The key, among the pins of a run, of the commit that was asked for."""

OWN = "own"
"""The pin of all source steps that clone what the trigger asks for: they are of one repository and one branch."""

FIRST = "first"
"""The key, among the pins of a run that was asked for nothing, that says that it has a source which it is about."""


class Waiting(StrEnum):
    """What a pending job waits for, when it is not an agent."""

    NOTHING = ""
    STAGE = "stage"
    APPROVAL = "approval"
    NEEDS = "needs"
    CONCURRENCY = "concurrency"
    RETRY = "retry"


@dataclass(slots=True)
class RunState:
    """A pipeline run. `outcome`: the gravest end of its jobs so far. `rejected`: nothing behind a gate runs any more.

    `pins`: the commit of each source that was cloned, by `pin` of the source step; by `ASKED` the one that was asked
    for. A run whose branch alone was asked for has `OWN` in it from the start, with nothing, and one that was asked for
    nothing `FIRST`.
    """

    id: UUID
    pipeline_id: UUID
    status: RunStatus
    stage_count: int
    total_jobs: int
    outcome: RunStatus = NOTHING_YET
    completed_jobs: int = 0
    failed_jobs: int = 0
    running_jobs: int = 0
    paused: bool = False
    stopped: bool = False
    timed_out: bool = False
    rejected: bool = False
    started: bool = False
    commit_sha: str = ""
    pins: dict[str, str] = field(default_factory=dict)
    status_reason: str = ""

    @property
    def ending(self) -> bool:
        """Whether it only waits for what still runs."""
        return self.stopped or self.timed_out


@dataclass(slots=True)
class StageState:
    """A stage. `open_jobs`: those that have not ended; `outcome`: what those that have contribute."""

    run_id: UUID
    index: int
    open_jobs: int
    outcome: RunStatus = NOTHING_YET
    opened: bool = True
    gate: GateState = GateState.NONE


@dataclass(slots=True)
class JobState:
    """A job run.

    `agent_id`: the agent that has its workspace. `outcome`: the gravest end of its steps so far. `open_needs`: how many
    of the `total_needs` jobs that it depends on have not ended. `upstream`: the gravest end of what came before it.
    `walled`: it stands behind a gate that was not passed, or ended before its own was. `notices`: which ends somebody is told of.
    """

    id: UUID
    run_id: UUID
    stage_index: int
    status: RunStatus
    selector_id: int
    total_steps: int
    outcome: RunStatus = NOTHING_YET
    completed_steps: int = 0
    failed_steps: int = 0
    running_steps: int = 0
    current_step: int = 0
    agent_id: UUID | None = None
    error_message: str = ""
    exit_code: int = 0
    failure_reason: FailureReason | None = None
    condition: str = ""
    total_needs: int = 0
    open_needs: int = 0
    has_dependants: bool = False
    upstream: RunStatus = NOTHING_YET
    walled: bool = False
    allow_failure: bool = False
    priority: int = 0
    concurrency: str = ""
    retry: RetrySpec | None = None
    retries_left: int = 0
    attempt: int = 1
    closing: Closing = Closing.NO
    gate: GateState = GateState.NONE
    has_outputs: bool = False
    notices: frozenset[str] = frozenset()
    waits_for: Waiting = Waiting.NOTHING


@dataclass(slots=True)
class Lease:
    """The right of one agent to run one step run, until it is ended. Its id is the `command_id` of the dispatch."""

    id: UUID
    step_run_id: UUID
    agent_id: UUID


@dataclass(slots=True)
class StepState:
    """A step run, which is one attempt. `selector_id` is its own, or that of its job.

    `condition`: its `when`. `dynamic`: something of it is evaluated when its turn comes. `kind`: `source`, `target` or
    empty; `pin`: which source it clones, `OWN` for all that take what the trigger asks for; `of_run`: it clones what the
    run is about, whose commit is that of the run; `told`: it was told the commit of it.
    """

    id: UUID
    job_id: UUID
    run_id: UUID
    index: int
    status: StepStatus
    selector_id: int
    attempt: int = 1
    own_selector: bool = False
    continue_on_error: bool = False
    cancel_cause: CancelCause | None = None
    cancel_reason: str = ""
    agent_id: UUID | None = None
    lease: Lease | None = None
    exit_code: int | None = None
    error_message: str = ""
    failure_reason: FailureReason | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)
    log_size: int | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    condition: str = ""
    dynamic: bool = False
    kind: str = ""
    pin: str = ""
    of_run: bool = False
    told: bool = False


_NOTHING: Mapping[str, str] = MappingProxyType({})


class Event(NamedTuple):
    """A change of state, for the journal. `previous` None: the resource was created.

    `waiting`: why it waits; an event whose state is the one before says that this changed. A tuple, here and below, as
    thousands a second are made: a frozen dataclass takes four times as long.
    """

    resource: Resource
    pipeline_id: UUID | None
    run_id: UUID | None
    job_id: UUID | None
    step_id: UUID | None
    agent_id: UUID | None
    status: str
    previous: str | None
    total: int = 0
    completed: int = 0
    failed: int = 0
    running: int = 0
    current: int = 0
    message: str = ""
    actor: str = ""
    waiting: str = ""


class StepReport(NamedTuple):
    """What an agent says about a step run. `lease_token` empty, `attempt` 0: the client does not know of them."""

    agent_id: UUID
    step_id: UUID
    status: StepStatus
    exit_code: int = 0
    error_message: str = ""
    failure_reason: FailureReason | None = None
    metrics: Mapping[str, str] = _NOTHING
    log_size: int | None = None
    outputs: Mapping[str, str] = _NOTHING
    attempt: int = 0
    lease_token: str = ""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A leased step run on its way to an agent. `payload`: the stored wire form, completed by the transport.

    `secrets`: environment variable to value, `values`: name of the secret to value; neither is ever shown. `commit`: that
    of the run, which a clone may have decided after the payload was stored.
    """

    lease_id: UUID
    lease_token: str
    step_run_id: UUID
    agent_id: UUID
    attempt: int
    payload: bytes
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    commit: str = ""


@dataclass(frozen=True, slots=True)
class CancelCommand:
    """An agent is to end a step run."""

    agent_id: UUID
    step_run_id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class Release:
    """An agent may remove the workspace of a job run."""

    agent_id: UUID
    job_id: UUID


@dataclass(frozen=True, slots=True)
class StageDue:
    """A stage whose turn has come: its jobs and how the stages before it ended have to be loaded, then it is entered."""

    run_id: UUID
    index: int


@dataclass(frozen=True, slots=True)
class StepDue:
    """A step whose turn has come, and of which something has to be evaluated first.

    `agent_id`: the agent whose slot has just become free. `agent_gone`: the workspace of the job is lost.
    """

    step_id: UUID
    agent_id: UUID | None = None
    agent_gone: bool = False


@dataclass(frozen=True, slots=True)
class NeedEnd:
    """How a job ended that another one depends on."""

    contribution: RunStatus
    upstream: RunStatus
    skipped: bool
    walled: bool

    @property
    def holds_up(self) -> bool:
        """Whether what depends on the job is skipped, unless a condition says otherwise."""
        return self.skipped or self.walled or blocks(self.contribution) or blocks(self.upstream)


@dataclass(frozen=True, slots=True)
class NewGate:
    """A gate that was reached: before a stage, or after a job."""

    run_id: UUID
    stage_index: int | None = None
    job_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of evaluating a condition, or what a step needs. `error`: it could not be evaluated."""

    holds: bool = True
    error: str = ""
