"""What operators want of an agent, and the settings that it is told."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Self
from uuid import UUID

PENDING_APPROVAL = "agent pending approval"
DISABLED = "agent is disabled"


@dataclass(frozen=True, slots=True)
class Standing:
    """What operators want of an agent. `note`: why it is drained or disabled, in words."""

    approved: bool = True
    disabled: bool = False
    drained: bool = False
    note: str = ""

    @property
    def refusal(self) -> str:
        """Why the agent gets no work at all, empty when it may get some."""
        if not self.approved:
            return PENDING_APPROVAL
        return DISABLED if self.disabled else ""

    @property
    def drains(self) -> bool:
        """Whether the agent is to finish what it runs and take nothing new."""
        return bool(self.refusal) or self.drained


@dataclass(frozen=True, slots=True)
class Briefing:
    """What an agent that comes is told, and whether it may come.

    `rotate_in`: seconds until its credential is to be rotated, negative when that is due, None for never. `busy`: it
    holds step runs. `started`: the leases of those that it has started.
    """

    standing: Standing
    rotate_in: float | None = None
    busy: bool = False
    started: AbstractSet[UUID] = frozenset()

    @property
    def refusal(self) -> str:
        """Why it may hold no channel. One that is disabled and still runs something may: it brings that to its end."""
        finishing = self.standing.approved and self.busy
        return "" if finishing else self.standing.refusal


@dataclass(frozen=True, slots=True)
class Settings:
    """What the server wants of an agent; times in milliseconds."""

    heartbeat_ms: int
    lease_ms: int
    drain: bool = False
    drain_reason: str = ""
    rotate_credential: bool = False

    def under(self, standing: Standing) -> Self:
        """Return them as operators want them now."""
        return replace(self, drain=standing.drains, drain_reason=standing.note if standing.drains else "")

    def at(self, briefing: Briefing) -> Self:
        """Return them as an agent is told that comes now."""
        due = briefing.rotate_in is not None and briefing.rotate_in <= 0
        return replace(self.under(briefing.standing), rotate_credential=due)

    def rotating(self) -> Self:
        """Return them with the wish that the agent rotates its credential."""
        return replace(self, rotate_credential=True)
