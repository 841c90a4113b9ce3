"""The agents that hold a channel to this process, and what is waiting to be sent to each.

An outbox gathers: dispatches, cancellations, releases and acknowledgements that come while a message is being written
go out together in the next. What is lost with a channel is read again from the database when the agent is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_server.domain.errors import Unauthenticated
from arcentra_server.domain.execution import CancelCommand, Dispatch, Release
from arcentra_server.domain.standing import Settings, Standing

LARGEST_DISPATCH = 64  # step runs a message; how many bytes it may have, `domain/portions.py` says


@dataclass(frozen=True, slots=True)
class Refusal:
    """A report that was refused. `status` is the number of the contract, as it was reported."""

    step_id: UUID
    status: steprun_pb2.StepRunStatus.ValueType
    reason: str
    message: str


@dataclass(slots=True)
class Outgoing:
    """What goes out in one message, or in a few."""

    dispatches: list[Dispatch] = field(default_factory=list)
    cancels: dict[UUID, str] = field(default_factory=dict)
    releases: list[UUID] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    acked_sequence: int = 0
    reconnect: bool = False
    settings: Settings | None = None


class Outbox:
    """What waits for one channel of one agent. `pulls`: the agent asks for step runs; nothing is pushed to it."""

    def __init__(self, agent_id: UUID, *, pulls: bool) -> None:
        self.agent_id = agent_id
        self.pulls = pulls
        self.superseded = False
        self.sent: set[UUID] = set()  # leases that went out, as far as they may still be open and not started
        self._closed = False
        self._failure: BaseException | None = None
        self._outgoing = Outgoing()
        self._settings: Settings | None = None
        self._ready = False
        self._reader: asyncio.Future[None] | None = None

    @property
    def size(self) -> int:
        """How many things wait to be sent."""
        waiting = self._outgoing
        return len(waiting.dispatches) + len(waiting.cancels) + len(waiting.releases) + len(waiting.refusals)

    def dispatch(self, dispatch: Dispatch) -> None:
        """Send a lease, unless it was: who looks for what is unsent may see it before who gave it comes here."""
        if dispatch.lease_id in self.sent:
            return
        self.sent.add(dispatch.lease_id)
        self._outgoing.dispatches.append(dispatch)
        self._wake()

    def cancel(self, step_id: UUID, reason: str) -> None:
        self._outgoing.cancels[step_id] = reason
        self._wake()

    def release(self, job_id: UUID) -> None:
        self._outgoing.releases.append(job_id)
        self._wake()

    def acknowledge(self, sequence: int, refusals: Iterable[Refusal] = ()) -> None:
        """Note that everything up to a message is settled."""
        self._outgoing.refusals.extend(refusals)
        self._outgoing.acked_sequence = max(self._outgoing.acked_sequence, sequence)
        self._wake()

    def ask_to_reconnect(self) -> None:
        self._outgoing.reconnect = True
        self._wake()

    def brief(self, settings: Settings) -> None:
        """Begin with these settings: they go out with the first message, at once if they want something of the agent.

        To an agent that pulls they are a message of their own, and Register told it the rest.
        """
        self._settings = settings
        wanting = settings.drain or settings.rotate_credential
        if wanting or not self.pulls:
            self._outgoing.settings = settings
        if wanting:
            self._wake()

    def change(self, standing: Standing, *, rotate: bool = False) -> None:
        """Note what operators want of the agent now, and whether it is to rotate its credential; tell what is new of it."""
        if self._settings is None:
            return
        settings = self._settings.under(standing)
        if rotate:
            settings = settings.rotating()
        if settings != self._settings:
            self._settings = self._outgoing.settings = settings
            self._wake()

    def fail(self, error: BaseException) -> None:
        """End the channel with an error: what the agent said could not be stored."""
        self._failure = error
        self._closed = True
        self._wake()

    def close(self, *, superseded: bool = False) -> None:
        """Let the writer finish: what waits still goes out, unless a newer channel has taken over."""
        self.superseded = self.superseded or superseded
        self._closed = True
        self._wake()

    async def take(self) -> Outgoing | None:
        """Return what waits, as soon as there is something; None when the channel ends. One task may wait.

        A message is what costs most: the answers of a commit and what it dispatched come within one turn of the loop,
        and go out together in the next.

        Raises:
            ArcentraError: what the agent said could not be stored.
        """
        if not self._ready:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        if self._failure is not None:
            raise self._failure
        if self.superseded:
            return None
        if self._closed:
            self._outgoing.settings = None  # they are for a channel that goes on
            if self._outgoing == Outgoing():
                return None
        outgoing, self._outgoing = self._outgoing, Outgoing()
        self._ready = self._closed
        return outgoing

    def _wake(self) -> None:
        self._ready = True
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class AgentChannels:
    """The outboxes by agent: one each, the newest."""

    def __init__(self) -> None:
        self._outboxes: dict[UUID, Outbox] = {}
        self._pushed: dict[UUID, None] = {}
        self._stopping = False

    def open(self, agent_id: UUID, *, pulls: bool = False) -> Outbox:
        """Open a channel for an agent; one that it had before ends. When the server stops, the agent is told at once."""
        before = self._outboxes.get(agent_id)
        if before is not None:
            before.close(superseded=True)
        outbox = self._outboxes[agent_id] = Outbox(agent_id, pulls=pulls)
        self._pushed.pop(agent_id, None)
        if self._stopping:
            outbox.ask_to_reconnect()
        return outbox

    def take_dispatches(self, outbox: Outbox) -> None:
        """Let the scheduler push to a channel: it is past its first message. Not when the server stops."""
        if self._outboxes.get(outbox.agent_id) is outbox and not outbox.pulls and not self._stopping:
            self._pushed[outbox.agent_id] = None

    def pass_over(self, agent_id: UUID, seconds: float, then: Callable[[], None]) -> None:
        """Let the scheduler push nothing to an agent for a while, as it refused something; `then` is called after it."""
        if agent_id not in self._pushed:
            return
        del self._pushed[agent_id]

        def again(outbox: Outbox = self._outboxes[agent_id]) -> None:
            self.take_dispatches(outbox)
            then()

        asyncio.get_running_loop().call_later(seconds, again)

    def close(self, outbox: Outbox) -> None:
        """End a channel."""
        outbox.close()
        if self._outboxes.get(outbox.agent_id) is outbox:
            del self._outboxes[outbox.agent_id]
            self._pushed.pop(outbox.agent_id, None)

    def disconnect(self, agent_id: UUID) -> None:
        """End the channel of an agent that is no longer welcome."""
        outbox = self._outboxes.get(agent_id)
        if outbox is not None:
            outbox.fail(Unauthenticated("credential revoked"))

    def change(self, agent_id: UUID, standing: Standing) -> None:
        """Tell an agent that is connected here what operators want of it now."""
        outbox = self._outboxes.get(agent_id)
        if outbox is not None:
            outbox.change(standing)

    def ask_all_to_reconnect(self) -> None:
        """Tell every agent that this server stops, and those that come yet: their calls may have been accepted before."""
        self._stopping = True
        self._pushed.clear()
        for outbox in self._outboxes.values():
            outbox.ask_to_reconnect()

    # domain.ports.AgentLinks

    def connected(self) -> Collection[UUID]:
        return self._pushed.keys()

    def dispatch(self, dispatches: Sequence[Dispatch]) -> None:
        for dispatch in dispatches:
            outbox = self._outboxes.get(dispatch.agent_id)
            if outbox is not None and not outbox.pulls:
                outbox.dispatch(dispatch)

    def reachable(self) -> Collection[UUID]:
        return self._outboxes.keys()

    def unsent(self, leases: Mapping[UUID, UUID]) -> set[UUID]:
        """Return those of the open leases, by id with their agents, that this process should have sent and has not."""
        mine: dict[UUID, set[UUID]] = {}
        for lease_id, agent_id in leases.items():
            mine.setdefault(agent_id, set()).add(lease_id)
        missing: set[UUID] = set()
        for agent_id in self._pushed:
            outbox = self._outboxes[agent_id]
            if outbox.sent or agent_id in mine:
                # What is open no more is not asked for again: the memory of an outbox does not grow.
                outbox.sent &= mine.get(agent_id, set())
                missing |= mine.get(agent_id, set()) - outbox.sent
        return missing

    def cancel(self, commands: Sequence[CancelCommand]) -> None:
        for command in commands:
            outbox = self._outboxes.get(command.agent_id)
            if outbox is not None:
                outbox.cancel(command.step_run_id, command.reason)

    def release(self, releases: Sequence[Release]) -> None:
        for release in releases:
            outbox = self._outboxes.get(release.agent_id)
            if outbox is not None:
                outbox.release(release.job_id)
