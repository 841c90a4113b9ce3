"""Agents: they join, say that they are alive, change their labels, rotate their credentials, and leave."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import agents, contact, events, orders, tokens
from arcentra_server.db.batcher import ARRIVAL_PAUSE, Batcher
from arcentra_server.db.contact import Beat
from arcentra_server.db.engine import Tx, new_id
from arcentra_server.db.execution import load_steps
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.db.tokens import TokenRow
from arcentra_server.domain.errors import NotAdmitted, NotFound, Unauthenticated, Unavailable, WriteConflict
from arcentra_server.domain.execution import CancelCommand, Event, Resource
from arcentra_server.domain.identity import ParsedToken, Role, TokenKind, parse_token
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.standing import Briefing, Standing
from arcentra_server.domain.states import AgentStatus
from arcentra_server.domain.token_maker import TokenMaker

INVALID_REGISTRATION = "invalid registration token"
REVOKED = "credential revoked"
MOST_CANCELS = 1_000  # that one heartbeat is answered with
LARGEST_BATCH = 500  # agents that are admitted together: after a restart of the server all of them come at once
RENEWAL_PAUSE = 0.5  # seconds after a commit of heartbeats in which those that say nothing new wait for the next
ADMISSION_SECONDS = 30.0  # that an agent waits at most, while the database does not answer, until its channel ends
REARM_ATTEMPTS = 5
OVERLAP = timedelta(minutes=10)  # that a credential stays good after it was rotated


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
    """The answer to a registration. `token` is shown here and nowhere else; `labels` are those in force.

    `expires_at`: when the token ends, None for never. `pending`: somebody has to approve the agent first.
    """

    agent_id: UUID
    token: str
    labels: Mapping[str, str]
    expires_at: datetime | None = None
    pending: bool = False


@dataclass(frozen=True, slots=True)
class Rotated:
    """A new credential, and when it and the one before end; None for never."""

    token: str
    expires_at: datetime | None
    old_expires_at: datetime


class AgentService:
    """See the module. `run` must be running for heartbeats to resolve, and for agents to be admitted.

    Args:
        store: Where everything is kept.
        token_maker: Makes credentials.
        lease_seconds: How long leases hold without a word of their agent.
        token_hours: How long the credential of an agent is good, 0 for ever.
    """

    def __init__(
        self, store: ExecutionStore, token_maker: TokenMaker, *, lease_seconds: float, token_hours: float = 24.0
    ) -> None:
        self._store = store
        self._database = store.database
        self._tokens = token_maker
        self._lease_seconds = lease_seconds
        self._token_life = timedelta(hours=token_hours) if token_hours else None
        self._heartbeats: Batcher[Beat, Standing | None] = Batcher(self._renew)
        self._unwritten: dict[UUID, float] = {}  # when, by the loop's clock, each was heard of last; see `unwritten`
        self._arrivals: Batcher[tuple[UUID, str], Briefing | None] = Batcher(self._brief, largest=LARGEST_BATCH)

    async def register(self, registration_token: str, facts: AgentFacts) -> Registered:
        """Let a new agent join.

        Raises:
            Unauthenticated: the token is unknown, used up or expired.
        """
        parsed = parse_token(registration_token)
        if parsed is None or parsed.kind is not TokenKind.REGISTRATION:
            raise Unauthenticated(INVALID_REGISTRATION)
        agent_id = new_id()
        async with self._database.transaction() as tx:
            used = await self._use_registration(tx, parsed)
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
                server_labels=used.labels,
                approved=not used.needs_approval,
            )
            token, expires_at = await self._issue(tx, agent_id, facts.name)
            await events.append(tx, [_event(agent_id, AgentStatus.OFFLINE, None)])
            crashpoint("register.before_commit")
        crashpoint("register.after_commit")
        self._store.announce_new_work()
        return Registered(agent_id, token, {**facts.labels, **used.labels}, expires_at, used.needs_approval)

    async def register_again(self, agent_id: UUID, token: str, facts: AgentFacts) -> Registered:
        """Take the new facts of an agent that joined before; it keeps its id and its token."""
        parsed = parse_token(token)
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
            kept = await tokens.get(tx, parsed.id) if parsed else None
        if not known or row is None:
            raise NotFound("agent not found")
        self._store.announce_new_work()
        return Registered(
            agent_id, token, row.labels, kept.expires_at if kept else None, pending=not row.standing.approved
        )

    async def rotate_credential(self, agent_id: UUID, token_id: str) -> Rotated:
        """Give an agent a new credential; the one it calls with ends a little later.

        Raises:
            Unauthenticated: it was revoked just now.
        """
        async with self._database.transaction() as tx:
            retired = await tokens.retire(tx, token_id, agent_id, OVERLAP)
            if retired is None:
                raise Unauthenticated(REVOKED)
            name, old_expires_at = retired
            token, expires_at = await self._issue(tx, agent_id, name)
            crashpoint("rotate.before_commit")
        crashpoint("rotate.after_commit")
        return Rotated(token, expires_at, old_expires_at)

    async def unregister(self, agent_id: UUID, reason: str) -> None:
        """Let an agent leave for good: its tokens end, what it ran is lost.

        Raises:
            NotFound: no such agent.
        """
        lost = f"agent left: {reason}" if reason else "agent left"

        async def decide(tx: Tx, ledger: Ledger) -> None:
            steps = await contact.leased_steps(tx, [agent_id])
            await load_steps(tx, ledger, steps)
            for step_id in steps:
                ledger.lose(ledger.steps[step_id], lost)
            before = await agents.delete(tx, agent_id)
            if before is None:
                raise NotFound("agent not found")
            # From here on it is locked, and gets no more; what it got while the runs of those were waited for is here.
            if not set(steps).issuperset(await contact.leased_steps(tx, [agent_id])):
                raise WriteConflict("the agent was given a step run at the same time")
            await tokens.revoke_of_agent(tx, agent_id)
            await events.append(tx, [_event(agent_id, AgentStatus.OFFLINE, before, "unregistered")])

        await self._store.change(decide)

    def heartbeat(
        self,
        agent_id: UUID,
        capacity: int | None = None,
        metrics: Mapping[str, str] | None = None,
        *,
        draining: bool | None = None,
        pause: float = 0.0,
    ) -> asyncio.Future[Standing | None]:
        """Renew the leases of an agent that was heard of, and keep what it says of itself; None leaves what is stored.

        The future answers what operators want of it, None when there is no such agent: one that has left may still hold
        a channel. `pause`: seconds after a commit of others that it may wait, to share the next with all that come
        meanwhile.
        """
        self._unwritten[agent_id] = asyncio.get_running_loop().time()
        return self._heartbeats.submit(Beat(agent_id, capacity, metrics, draining), pause=pause)

    def unwritten(self) -> AbstractSet[UUID]:
        """Return the agents that were heard of here within the lease time and whose heartbeat is not known to be committed.

        It waits, or could not be: that is no fault of theirs, whatever the database says of the end of their lease time.
        """
        since = asyncio.get_running_loop().time() - self._lease_seconds
        self._unwritten = {agent_id: at for agent_id, at in self._unwritten.items() if at > since}
        return self._unwritten.keys()

    def hurry_heartbeats(self) -> None:
        """Store the heartbeats that wait for company: something else waits for one of them."""
        self._heartbeats.hurry()

    async def admit(self, agent_id: UUID, token_id: str) -> Briefing:
        """Answer what an agent that opens a channel is told.

        Raises:
            Unauthenticated: the agent or its credential is gone.
            NotAdmitted: it waits for approval, or is disabled and runs nothing.
            Unavailable: the database is away, or does not answer.
        """
        try:
            async with asyncio.timeout(ADMISSION_SECONDS):
                briefing = _known(await self._arrivals.submit((agent_id, token_id), pause=ARRIVAL_PAUSE))
        except TimeoutError:
            raise Unavailable("the database does not answer: try again") from None
        if briefing.refusal:
            raise NotAdmitted(briefing.refusal)
        return briefing

    async def brief_without_channel(self, agent_id: UUID, token_id: str) -> tuple[Briefing, list[CancelCommand]]:
        """Answer what an agent is told that holds no channel, and which of its step runs it is to cancel.

        Raises:
            Unauthenticated: the agent or its credential is gone.
        """
        async with self._database.transaction() as tx:
            [found] = await self._briefings(tx, [(agent_id, token_id)])
            briefing = _known(found)
            return briefing, await orders.pending_cancels(tx, [agent_id], MOST_CANCELS) if briefing.busy else []

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

    async def rearm(self) -> int:
        """Give every agent one full lease time, and return how many got it: agents could not be heard of until now.

        Raises:
            WriteConflict: others locked agents, again and again.
            Unavailable: the database is away.
        """
        for _ in range(REARM_ATTEMPTS - 1):
            with suppress(WriteConflict):
                return await self._rearm()
        return await self._rearm()

    async def _rearm(self) -> int:
        async with self._database.transaction() as tx:
            return await contact.rearm(tx, self._lease_seconds)

    async def run(self) -> None:
        """Commit heartbeats, and admit agents, until `close`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._heartbeats.run())
            group.create_task(self._arrivals.run())

    def close(self) -> None:
        self._heartbeats.close()
        self._arrivals.close()

    async def _issue(self, tx: Tx, agent_id: UUID, name: str) -> tuple[str, datetime | None]:
        made = self._tokens.make(TokenKind.AGENT)
        expires_at = await tokens.insert(
            tx,
            token_id=made.id,
            kind=TokenKind.AGENT,
            name=name,
            role=Role.AGENT,
            secret_hash=made.secret_hash,
            agent_id=agent_id,
            ttl=self._token_life,
        )
        return made.text, expires_at

    async def _brief(self, arrivals: Sequence[tuple[UUID, str]]) -> list[Briefing | None]:
        async with self._database.transaction() as tx:
            return await self._briefings(tx, arrivals)

    async def _briefings(self, tx: Tx, arrivals: Sequence[tuple[UUID, str]]) -> list[Briefing | None]:
        found = await agents.briefings(tx, arrivals, endless_tokens=self._token_life is None)
        return [found.get(arrival) for arrival in arrivals]

    async def _use_registration(self, tx: Tx, parsed: ParsedToken) -> TokenRow:
        row = await tokens.get(tx, parsed.id)
        good = row is not None and self._tokens.matches(parsed.secret, row.secret_hash)
        if row is None or not good or not await tokens.use_registration(tx, parsed.id):
            raise Unauthenticated(INVALID_REGISTRATION)
        return row

    async def _renew(self, batch: Sequence[Beat]) -> list[Standing | None]:
        latest: dict[UUID, Beat] = {}
        for beat in batch:
            before = latest.get(beat.agent_id)
            latest[beat.agent_id] = before.then(beat) if before else beat
        async with self._database.transaction() as tx:
            rows = await contact.renew(tx, list(latest.values()), self._lease_seconds)
            changed = {}
            told = []
            for row in rows:
                status, before_it = contact.status_of(row), AgentStatus(row["status"])
                if status is not before_it:
                    changed[row["id"]] = status
                    told.append(_event(row["id"], status, before_it))
            if changed:
                await contact.set_status(tx, changed)
                await events.append(tx, told)
            crashpoint("heartbeat.before_commit")
        crashpoint("heartbeat.after_commit")
        for agent_id in latest:
            self._unwritten.pop(agent_id, None)
        if changed:
            self._store.announce_new_work()
        standings = {row["id"]: contact.standing_of(row) for row in rows}
        return [standings.get(beat.agent_id) for beat in batch]


def _known(briefing: Briefing | None) -> Briefing:
    if briefing is None:
        raise Unauthenticated(REVOKED)
    return briefing


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
