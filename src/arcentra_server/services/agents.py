"""Agents: they join, say that they are alive, change their labels, and leave."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from arcentra_server.db import agents, events, tokens
from arcentra_server.db.agents import AgentRow
from arcentra_server.db.batcher import Batcher
from arcentra_server.db.engine import Tx, new_id
from arcentra_server.db.execution import load_steps
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.domain.errors import NotFound, Unauthenticated
from arcentra_server.domain.execution import Event, Resource
from arcentra_server.domain.identity import ParsedToken, Role, TokenKind, parse_token
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import AgentStatus, agent_status
from arcentra_server.domain.token_maker import TokenMaker

INVALID_REGISTRATION = "invalid registration token"


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """What an agent says of itself when it registers."""

    name: str
    ip: str = ""
    os: str = ""
    arch: str = ""
    version: str = ""
    capacity: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Registered:
    """The answer to a registration. `token` is shown here and nowhere else; `labels` are those in force."""

    agent_id: UUID
    token: str
    labels: Mapping[str, str]


class AgentService:
    """See the module. `run` must be running for heartbeats to resolve."""

    def __init__(self, store: ExecutionStore, token_maker: TokenMaker, *, lease_seconds: float) -> None:
        self._store = store
        self._database = store.database
        self._tokens = token_maker
        self._lease_seconds = lease_seconds
        self._heartbeats: Batcher[tuple[UUID, int | None], bool] = Batcher(self._renew)

    async def register(self, registration_token: str, facts: AgentFacts) -> Registered:
        """Let a new agent join.

        Raises:
            Unauthenticated: the token is unknown, used up or expired.
        """
        parsed = parse_token(registration_token)
        if parsed is None or parsed.kind is not TokenKind.REGISTRATION:
            raise Unauthenticated(INVALID_REGISTRATION)
        agent_id = new_id()
        made = self._tokens.make(TokenKind.AGENT)
        async with self._database.transaction() as tx:
            server_labels = await self._use_registration(tx, parsed)
            await agents.insert(
                tx,
                agent_id,
                name=facts.name or f"agent-{agent_id.hex[-8:]}",
                ip=facts.ip,
                os=facts.os,
                arch=facts.arch,
                version=facts.version,
                capacity=facts.capacity,
                claimed_labels=facts.labels,
                server_labels=server_labels,
            )
            await tokens.insert(
                tx,
                token_id=made.id,
                kind=TokenKind.AGENT,
                name=facts.name,
                role=Role.AGENT,
                secret_hash=made.secret_hash,
                agent_id=agent_id,
            )
            await events.append(tx, [_event(agent_id, AgentStatus.OFFLINE, None)])
        self._store.announce_new_work()
        return Registered(agent_id, made.text, {**facts.labels, **server_labels})

    async def register_again(self, agent_id: UUID, token: str, facts: AgentFacts) -> Registered:
        """Take the new facts of an agent that joined before; it keeps its id and its token."""
        async with self._database.transaction() as tx:
            known = await agents.update_facts(
                tx,
                agent_id,
                name=facts.name,
                ip=facts.ip,
                os=facts.os,
                arch=facts.arch,
                version=facts.version,
                capacity=facts.capacity,
                claimed_labels=facts.labels,
            )
            row = await agents.get(tx, agent_id)
        if not known or row is None:
            raise NotFound("agent not found")
        self._store.announce_new_work()
        return Registered(agent_id, token, row.labels)

    async def unregister(self, agent_id: UUID, reason: str) -> None:
        """Let an agent leave for good: its tokens end, what it ran is lost.

        Raises:
            NotFound: no such agent.
        """
        lost = f"agent left: {reason}" if reason else "agent left"

        async def decide(tx: Tx, ledger: Ledger) -> None:
            steps = await agents.leased_steps(tx, [agent_id])
            await load_steps(tx, ledger, steps)
            for step_id in steps:
                ledger.lose(ledger.steps[step_id], lost)
            before = await agents.delete(tx, agent_id)
            if before is None:
                raise NotFound("agent not found")
            await tokens.revoke_of_agent(tx, agent_id)
            await events.append(tx, [_event(agent_id, AgentStatus.OFFLINE, before, "unregistered")])

        await self._store.change(decide)

    def heartbeat(self, agent_id: UUID, capacity: int | None = None) -> asyncio.Future[bool]:
        """Renew the leases of an agent that was heard of; `capacity` None leaves the stored one.

        The future answers whether there is such an agent: one that has left may still hold a channel.
        """
        return self._heartbeats.submit((agent_id, capacity))

    async def update_labels(self, agent_id: UUID, labels: Mapping[str, str], *, merge: bool) -> Mapping[str, str]:
        """Change the labels an agent claims; return those in force.

        Raises:
            NotFound: no such agent.
        """
        async with self._database.transaction() as tx:
            in_force = await agents.set_claimed_labels(tx, agent_id, labels, merge=merge)
        if in_force is None:
            raise NotFound("agent not found")
        self._store.announce_new_work()
        return in_force

    async def record_metrics(self, agent_id: UUID, metrics: Mapping[str, str]) -> None:
        """Keep the last metrics of an agent, as text by name."""
        async with self._database.transaction() as tx:
            await agents.set_metrics(tx, agent_id, metrics)

    async def list_all(self) -> list[AgentRow]:
        """Return every agent, by name."""
        async with self._database.transaction() as tx:
            return await agents.list_all(tx)

    async def rearm(self) -> int:
        """Give every agent one full lease time: called once when a server starts."""
        async with self._database.transaction() as tx:
            return await agents.rearm(tx, self._lease_seconds)

    async def run(self) -> None:
        """Commit heartbeats until `close`."""
        await self._heartbeats.run()

    def close(self) -> None:
        self._heartbeats.close()

    async def _use_registration(self, tx: Tx, parsed: ParsedToken) -> Mapping[str, str]:
        row = await tokens.get(tx, parsed.id)
        good = row is not None and self._tokens.matches(parsed.secret, row.secret_hash)
        if row is None or not good or not await tokens.use_registration(tx, parsed.id):
            raise Unauthenticated(INVALID_REGISTRATION)
        return row.labels

    async def _renew(self, batch: Sequence[tuple[UUID, int | None]]) -> list[bool]:
        latest: dict[UUID, int | None] = {}
        for agent_id, capacity in batch:
            latest[agent_id] = capacity if capacity is not None else latest.get(agent_id)
        async with self._database.transaction() as tx:
            rows = await agents.renew(tx, list(latest), list(latest.values()), self._lease_seconds)
            changed = {}
            told = []
            for row in rows:
                status, before = agent_status(row["capacity"], row["running"]), AgentStatus(row["status"])
                if status is not before:
                    changed[row["id"]] = status
                    told.append(_event(row["id"], status, before))
            if changed:
                await agents.set_status(tx, changed)
                await events.append(tx, told)
        if changed:
            self._store.announce_new_work()
        known = {row["id"] for row in rows}
        return [agent_id in known for agent_id, _ in batch]


def _event(agent_id: UUID, status: AgentStatus, before: AgentStatus | None, message: str = "") -> Event:
    return Event(
        Resource.AGENT,
        None,
        None,
        None,
        None,
        agent_id,
        status.value,
        before.value if before else None,
        message=message,
    )
