"""What runs, as the ledger works on it: runs, stages, jobs, steps and leases, and what is said about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from arcentra_server.domain.rollup import NOTHING_YET
from arcentra_server.domain.states import FailureReason, RunStatus, StepStatus


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


@dataclass(slots=True)
class RunState:
    """A pipeline run. `outcome`: the gravest end of its jobs so far."""

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
    status_reason: str = ""


@dataclass(slots=True)
class StageState:
    """The jobs of one stage that have not ended."""

    run_id: UUID
    index: int
    open_jobs: int


@dataclass(slots=True)
class JobState:
    """A job run. `agent_id`: the agent that has its workspace. `outcome`: the gravest end of its steps so far."""

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


@dataclass(slots=True)
class Lease:
    """The right of one agent to run one step run, until it is ended. Its id is the `command_id` of the dispatch."""

    id: UUID
    step_run_id: UUID
    agent_id: UUID


@dataclass(slots=True)
class StepState:
    """A step run, which is one attempt. `selector_id` is its own, or that of its job."""

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


@dataclass(frozen=True, slots=True)
class Event:
    """A change of state, for the journal. `previous` None: the resource was created."""

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


@dataclass(frozen=True, slots=True)
class StepReport:
    """What an agent says about a step run. `lease_token` empty, `attempt` 0: the client does not know of them."""

    agent_id: UUID
    step_id: UUID
    status: StepStatus
    exit_code: int = 0
    error_message: str = ""
    failure_reason: FailureReason | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)
    log_size: int | None = None
    attempt: int = 0
    lease_token: str = ""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A leased step run on its way to an agent. `payload`: the stored wire form, completed by the transport."""

    lease_id: UUID
    lease_token: str
    step_run_id: UUID
    agent_id: UUID
    attempt: int
    payload: bytes


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
    """A stage whose turn has come (`skip`: never will): its jobs have to be loaded, then opened or skipped."""

    run_id: UUID
    index: int
    skip: bool
