"""The states of what runs. Their text is what the database stores."""

from __future__ import annotations

from enum import StrEnum


class StepStatus(StrEnum):
    """State of a step run. PENDING: not its turn; QUEUED: waits for, or was sent to, an agent."""

    PENDING = "PENDING"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    SKIPPED = "SKIPPED"

    @property
    def terminal(self) -> bool:
        return self in STEP_TERMINAL


class RunStatus(StrEnum):
    """State of a pipeline run or a job run. PARTIAL: finished, and every failure in it was declared tolerable."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    PARTIAL = "PARTIAL"
    PAUSED = "PAUSED"
    SKIPPED = "SKIPPED"
    TIMEOUT = "TIMEOUT"

    @property
    def terminal(self) -> bool:
        return self in RUN_TERMINAL


class GateState(StrEnum):
    """State of the gate of a stage or a job. REQUIRED: it was not reached yet."""

    NONE = ""
    REQUIRED = "REQUIRED"
    WAITING = "WAITING"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"


class ApprovalState(StrEnum):
    """State of the decision at a gate that was reached. All but PENDING are final."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"


class AgentStatus(StrEnum):
    """What an agent is doing. ONLINE: runs something and has room; BUSY: full; IDLE: runs nothing.

    DRAINING takes nothing new, DISABLED and PENDING_APPROVAL take nothing at all.
    """

    ONLINE = "ONLINE"
    OFFLINE = "OFFLINE"
    BUSY = "BUSY"
    IDLE = "IDLE"
    DRAINING = "DRAINING"
    DISABLED = "DISABLED"
    PENDING_APPROVAL = "PENDING_APPROVAL"


class FailureReason(StrEnum):
    """Why a step run failed, for people and for retry rules."""

    SCRIPT = "script"
    AGENT_LOST = "agent_lost"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    DEPENDENCY = "dependency"
    REJECTED = "rejected"
    PLUGIN_MISSING = "plugin_missing"
    IMAGE_PULL = "image_pull"
    DISK_FULL = "disk_full"
    OOM = "oom"
    VALIDATION = "validation"
    INTERNAL = "internal"


class TriggerType(StrEnum):
    """What started a run."""

    MANUAL = "MANUAL"
    CRON = "CRON"
    EVENT = "EVENT"


STEP_TERMINAL = frozenset(
    {StepStatus.SUCCESS, StepStatus.FAILED, StepStatus.CANCELLED, StepStatus.TIMEOUT, StepStatus.SKIPPED}
)
RUN_TERMINAL = frozenset(
    {
        RunStatus.SUCCESS,
        RunStatus.FAILED,
        RunStatus.CANCELLED,
        RunStatus.PARTIAL,
        RunStatus.SKIPPED,
        RunStatus.TIMEOUT,
    }
)
RUN_FAILURES = frozenset({RunStatus.FAILED, RunStatus.TIMEOUT})
STEP_FAILURES = frozenset({StepStatus.FAILED, StepStatus.TIMEOUT})


def agent_status(
    capacity: int,
    running: int,
    *,
    away: bool = False,
    approved: bool = True,
    disabled: bool = False,
    draining: bool = False,
) -> AgentStatus:
    """Answer the state of an agent: the first of these that holds.

    Args:
        capacity: Step runs it takes at once.
        running: Step runs that it holds.
        away: It is not in contact.
        approved: An operator lets it take step runs, or nobody has to.
        disabled: An operator keeps it from everything.
        draining: It takes nothing new, as an operator or the agent itself wants.
    """
    if away:
        return AgentStatus.OFFLINE
    if not approved:
        return AgentStatus.PENDING_APPROVAL
    if disabled:
        return AgentStatus.DISABLED
    if draining:
        return AgentStatus.DRAINING
    if running == 0:
        return AgentStatus.IDLE
    return AgentStatus.BUSY if running >= capacity else AgentStatus.ONLINE
