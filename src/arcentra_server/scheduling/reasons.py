"""Why a step run of the queue is not placed, and why one agent does not take it. `docs/scheduling.md` tells them to users."""

from __future__ import annotations

from enum import StrEnum


class WaitReason(StrEnum):
    """Why a queued step run is not placed: one for the step run as a whole, the first that holds of the list.

    A step run is either free, for any agent that its selector matches, or bound to the agent with its job's workspace.
    """

    PAUSED = "paused"
    """Its run is paused."""
    RETRY_DELAY = "retry_delay"
    """It is to wait until a moment that has not come."""

    # Free step runs.
    NO_MATCHING_AGENT = "no_matching_agent"
    """No agent has labels that its selector matches, or there is no agent at all."""
    RESERVED = "reserved"
    """Every agent with labels that match is reserved for step runs that ask for it by name."""
    AGENTS_OFFLINE = "agents_offline"
    """Agents match, and none of them can be reached."""
    AGENTS_UNAVAILABLE = "agents_unavailable"
    """Those that match and can be reached take nothing new: not approved, disabled, drained or draining."""
    AGENTS_FULL = "agents_full"
    """Those that match, can be reached and take work have no slot left."""

    # Bound step runs.
    AGENT_AWAY = "agent_away"
    """The agent cannot be reached."""
    AGENT_UNAVAILABLE = "agent_unavailable"
    """The agent is not approved or disabled; one that is drained or draining finishes the jobs it has."""
    AGENT_FULL = "agent_full"
    """The agent has no slot left."""


class Obstacle(StrEnum):
    """Why one agent does not take a step run; several may hold at once."""

    OFFLINE = "offline"
    PENDING_APPROVAL = "pending_approval"
    DISABLED = "disabled"
    DRAINING = "draining"
    """Drained by an operator, or draining by itself; no obstacle for step runs that are bound to the agent."""
    FULL = "full"
    LABEL = "label"
    """A condition of the selector does not hold; one obstacle for each such condition."""
    RESERVED = "reserved"
    """Reserved by a label that the selector does not ask for; one obstacle for each such label."""
    OTHER_AGENT = "other_agent"
    """The step run is bound to another agent, which has the workspace of its job."""
