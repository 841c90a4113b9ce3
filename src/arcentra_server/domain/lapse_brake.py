"""The brake on mass lapses: when most agents fall silent together, it is the network or the server that is away.

Agents are counted, not what they run: one that runs much and ends alone is no sign of anything (ADR 0018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

FEWEST_HOLDERS = 3  # below this, two agents that end together are no sign of anything


@dataclass(frozen=True, slots=True)
class Holder:
    """An agent that holds leases.

    `lapsed`: its lease time has passed. `lapsing`: it has, or will soon, as nothing was heard of the agent. `spared`: its
    leases were renewed without a word of it since it was last heard of.
    """

    agent_id: UUID
    lapsed: bool = False
    lapsing: bool = False
    spared: bool = False

    @property
    def silent(self) -> bool:
        return self.lapsed or self.lapsing or self.spared


def to_spare(holders: Sequence[Holder]) -> list[UUID]:
    """Return the lapsed agents that keep their leases for one more lease time: none, unless most are silent.

    Agents fall silent at one moment and lapse one by one, over the time between two heartbeats: so those count that are
    about to lapse, and those that were spared before. Each is spared once a silence.
    """
    silent = sum(holder.silent for holder in holders)
    if len(holders) < FEWEST_HOLDERS or 2 * silent <= len(holders):
        return []
    return [holder.agent_id for holder in holders if holder.lapsed and not holder.spared]
