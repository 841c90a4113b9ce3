"""What operators do with agents: look at them, approve, drain, disable, and label them."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from arcentra_server.db import agents, contact, events
from arcentra_server.db.agents import AgentRow
from arcentra_server.db.engine import Tx
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.domain.errors import NotFound, ValidationError
from arcentra_server.domain.execution import Event, Resource
from arcentra_server.domain.states import AgentStatus

LARGEST_LABELS = 200  # that the server gives one agent
LONGEST_MESSAGE = 1_024  # characters, of what an event tells of labels


class FleetService:
    """See the module. Every change is idempotent, answers the agent as it is then, and is told in an event."""

    def __init__(self, store: ExecutionStore) -> None:
        self._store = store
        self._database = store.database

    async def list_all(self) -> list[AgentRow]:
        """Return every agent, by name."""
        async with self._database.transaction() as tx:
            return await agents.list_all(tx)

    async def get(self, agent_id: UUID) -> AgentRow:
        """Return one agent.

        Raises:
            NotFound: no such agent.
        """
        async with self._database.transaction() as tx:
            return await _existing(tx, agent_id)

    async def approve(self, agent_id: UUID, actor: str) -> AgentRow:
        """Let an agent that waits for approval take step runs. Raises as `get`."""
        return await self._want(agent_id, actor, "approved", approved=True)

    async def drain(self, agent_id: UUID, reason: str, actor: str) -> AgentRow:
        """Let an agent finish what it runs and take nothing new. Raises as `get`."""
        return await self._want(agent_id, actor, "drained", drained=True, note=reason)

    async def resume(self, agent_id: UUID, actor: str) -> AgentRow:
        """End what `drain` began. Raises as `get`."""
        return await self._want(agent_id, actor, "resumed", drained=False)

    async def disable(self, agent_id: UUID, reason: str, actor: str) -> AgentRow:
        """Let an agent take nothing at all; what it runs goes on. Raises as `get`."""
        return await self._want(agent_id, actor, "disabled", disabled=True, note=reason)

    async def enable(self, agent_id: UUID, actor: str) -> AgentRow:
        """End what `disable` began. Raises as `get`."""
        return await self._want(agent_id, actor, "enabled", disabled=False)

    async def set_labels(self, agent_id: UUID, labels: Mapping[str, str], actor: str, *, merge: bool) -> AgentRow:
        """Set the labels that the server gives an agent; with `merge` the others stay, and an empty value removes one.

        Raises:
            NotFound: no such agent.
            ValidationError: it would have too many.
        """
        async with self._database.transaction() as tx:
            before, after = await agents.set_server_labels(tx, agent_id, labels, merge=merge) or ({}, {})
            if len(after) > LARGEST_LABELS:
                raise ValidationError.at("labels", f"the agent would have {len(after)}, more than {LARGEST_LABELS}")
            row = await _existing(tx, agent_id)
            if before != after:
                await events.append(tx, [_event(agent_id, row.status, row.status, _changes(before, after), actor)])
        self._store.announce_new_work()
        return row

    async def _want(
        self,
        agent_id: UUID,
        actor: str,
        what: str,
        *,
        approved: bool | None = None,
        disabled: bool | None = None,
        drained: bool | None = None,
        note: str = "",
    ) -> AgentRow:
        async with self._database.transaction() as tx:
            changed = await contact.want(tx, agent_id, approved=approved, disabled=disabled, drained=drained, note=note)
            if changed is not None:
                before = AgentStatus(changed["status"])
                status = contact.status_of(changed, away=before is AgentStatus.OFFLINE)
                if status is not before:
                    await contact.set_status(tx, {agent_id: status})
                    await events.append(tx, [_event(agent_id, status, before, changed["note"], actor)])
                elif changed["changed"]:
                    # Its state does not say it: it is away, or something else that is wanted of it comes first.
                    message = f"{what}: {note}" if note else what
                    await events.append(tx, [_event(agent_id, status, status, message, actor)])
            row = await _existing(tx, agent_id)
        self._store.announce_new_work()
        return row


async def _existing(tx: Tx, agent_id: UUID) -> AgentRow:
    row = await agents.get(tx, agent_id)
    if row is None:
        raise NotFound(f"agent {str(agent_id)!r} not found")
    return row


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Return what changed of labels, as it is given to `arcentra agent label`."""
    given = [f"{name}={value}" for name, value in sorted(after.items()) if before.get(name) != value]
    text = "labels: " + " ".join([*given, *(f"{name}-" for name in sorted(before.keys() - after.keys()))])
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 1] + "…"


def _event(agent_id: UUID, status: AgentStatus, before: AgentStatus, message: str, actor: str) -> Event:
    return Event(
        Resource.AGENT, None, None, None, None, agent_id, status.value, before.value, message=message, actor=actor
    )
