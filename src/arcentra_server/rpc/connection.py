"""One agent on Connect: a reader that hands in what it says, a writer that sends everything pending in one message."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from arcentra_api.agent.v1 import agent_pb2
from arcentra_server.crashpoint import crashpoint
from arcentra_server.db.batcher import ARRIVAL_PAUSE
from arcentra_server.domain.errors import LimitExceeded, Unavailable, WriteConflict
from arcentra_server.domain.execution import StepReport
from arcentra_server.domain.ids import parse_id
from arcentra_server.domain.standing import Standing
from arcentra_server.rpc.channels import Refusal
from arcentra_server.rpc.context import ARRIVED, calling_agent
from arcentra_server.rpc.convert import agent as convert
from arcentra_server.rpc.convert.enums import STEP_STATUS
from arcentra_server.rpc.parts import AgentParts
from arcentra_server.rpc.welcome import Welcome, welcome
from arcentra_server.services.agents import RENEWAL_PAUSE
from arcentra_server.services.reports import Verdict

LARGEST_MESSAGE = 1_000  # reports in one message
LARGEST_OUTBOX = 20_000  # things that wait to be sent to one agent
REFUSAL_SECONDS = 10.0  # that an agent gets nothing new after it refused something: others are asked first
ROUND = 6  # heartbeats: once a round the workspaces of the agent are looked at
LATE_SECONDS = (
    9.0  # from when an agent comes until it is let in: no sooner does one give a dead link up for another server
)
MOST_UNSETTLED = 64  # messages that wait for their commit before the next is read


@dataclass(slots=True, eq=False)
class _Unsettled:
    """A message of which something is not committed yet: the heartbeat, or its reports, whose verdicts it waits for.

    `settle`: called whenever one of them is.
    """

    sequence: int
    beat: asyncio.Future[Standing | None] | None
    reports: Sequence[StepReport]
    refusals: Sequence[Refusal]
    settle: Callable[[], None]
    verdicts: Sequence[Verdict] = ()
    unstored: Exception | None = None
    judged: bool = False

    @property
    def settled(self) -> bool:
        return (self.judged or not self.reports) and (self.beat is None or self.beat.done())

    @property
    def failure(self) -> BaseException | None:
        """Why something of it is not known to be committed."""
        if self.beat is None or self.unstored is not None:
            return self.unstored
        return Unavailable("the server is stopping") if self.beat.cancelled() else self.beat.exception()

    # db.batcher.Waiter, for the reports

    def done(self) -> bool:
        return self.judged

    def set_result(self, verdicts: Sequence[Verdict], /) -> None:
        self.judged, self.verdicts = True, verdicts
        self.settle()

    def set_exception(self, exception: Exception, /) -> None:
        self.judged, self.unstored = True, exception
        self.settle()


Write = Callable[[agent_pb2.ConnectResponse], Awaitable[None]]


class Connection:
    """See the module. `token_id`: the credential of the agent; `write` sends a message to it."""

    def __init__(self, parts: AgentParts, agent_id: UUID, token_id: str, write: Write) -> None:
        self._parts = parts
        self._agent_id = agent_id
        self._agent_text = str(agent_id)
        self._token_id = token_id
        self._write = write
        self._welcome: Welcome | None = None
        self._late = False
        self._outbox = parts.channels.open(agent_id, pulls=False)
        self._batched = False
        self._beats = 0
        self._said: tuple[int, bool] | None = None
        self._unsettled: deque[_Unsettled] = deque()
        self._progress = asyncio.Event()  # the oldest of them was settled, or failed

    async def run(self, messages: AsyncIterator[agent_pb2.ConnectRequest]) -> None:
        """Serve the channel until the agent ends it, or opens another.

        Raises:
            WriteConflict: the agent has opened another channel.
            LimitExceeded: a message holds too many reports.
            NotAdmitted: the agent waits for approval, or is disabled.
            Unauthenticated: the agent is gone.
        """
        try:
            self._welcome = await welcome(self._parts, self._outbox, self._token_id)
            now = asyncio.get_running_loop().time()
            self._late = now - ARRIVED.get(now) > LATE_SECONDS
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send())
                await self._receive(messages)
                self._outbox.close()
        finally:
            self._parts.channels.close(self._outbox)

    async def _receive(self, messages: AsyncIterator[agent_pb2.ConnectRequest]) -> None:
        first = True
        async for message in messages:
            if message.agent_id != self._agent_text:
                calling_agent(message.agent_id)
            if first:
                self._batched = message.sequence > 0
            await self._take(message)
            if first:
                # What the message says is settled first: a step that has ended is not one that the agent lost, and an
                # agent gets work once its leases hold.
                if self._unsettled:
                    await self._oldest_settled()
                crashpoint("connect.first_message")
                await self._catch_up(message)
                first = False

    async def _take(self, message: agent_pb2.ConnectRequest) -> None:
        if len(message.task_statuses) > LARGEST_MESSAGE or len(message.task_acks) > LARGEST_MESSAGE:
            raise LimitExceeded(f"a message holds at most {LARGEST_MESSAGE} reports, and as many acknowledgements")
        if self._outbox.size > LARGEST_OUTBOX:
            raise LimitExceeded("the agent sends and does not read")
        beat = await self._beat(message.heartbeat) if message.HasField("heartbeat") else None
        if acks := convert.acks_of(message):
            await self._take_acks(acks)
        reports, refusals = convert.reports_from(message, self._agent_id)
        unsettled = _Unsettled(message.sequence, beat, reports, refusals, self._settle)
        self._unsettled.append(unsettled)
        if beat is not None:
            beat.add_done_callback(self._settle)
        if reports:
            if any(waiting.beat is not None for waiting in self._unsettled):
                self._parts.agents.hurry_heartbeats()  # whose acknowledgement comes before that of these
            self._parts.reports.hand_in(reports, unsettled)
        elif unsettled.settled:
            self._settle()
        if len(self._unsettled) > MOST_UNSETTLED:
            self._parts.agents.hurry_heartbeats()
            await self._oldest_settled()

    async def _oldest_settled(self) -> None:
        """Wait until the oldest message that is not settled is, or is known not to be."""
        self._progress.clear()
        await self._progress.wait()

    async def _beat(self, heartbeat: agent_pb2.ConnectHeartbeat) -> asyncio.Future[Standing | None]:
        """Renew the agent's leases. The message is acknowledged when they are: that says so to its watchdog."""
        capacity = convert.capacity_from(heartbeat.max_concurrent_step_runs)
        metrics = convert.clean_metrics(heartbeat.metrics) if heartbeat.metrics else None
        said = (heartbeat.max_concurrent_step_runs, heartbeat.draining)
        pause = 0.0
        if self._said is None:
            pause = ARRIVAL_PAUSE
        elif self._said == said:
            pause = RENEWAL_PAUSE
        self._said = said
        beat = self._parts.agents.heartbeat(self._agent_id, capacity, metrics, draining=heartbeat.draining, pause=pause)
        self._beats += 1
        if self._beats % ROUND == 0 and heartbeat.workspace_job_ids:
            with suppress(Unavailable):  # the next round will do
                await self._release(heartbeat)
        return beat

    async def _release(self, heartbeat: agent_pb2.ConnectHeartbeat) -> None:
        """Release the workspaces of jobs that need them no more: what ended through another server told nobody here."""
        for job_id in await self._parts.arrivals.released(self._agent_id, _kept_jobs(heartbeat)):
            self._outbox.release(job_id)

    def _settle(self, _: object = None) -> None:
        """Acknowledge what is committed, in the order in which it came."""
        while self._unsettled and self._unsettled[0].settled:
            message = self._unsettled.popleft()
            self._progress.set()
            if (failure := message.failure) is not None:
                # Not known to be committed: the agent keeps the message and sends it again on its next channel.
                self._outbox.fail(failure)
                return
            if message.beat is not None and self._welcome is not None:
                self._welcome.beaten(message.beat.result())
            if message.reports:
                crashpoint("report.settled")
            refused = [
                Refusal(report.step_id, STEP_STATUS.to_proto(report.status), verdict.reason, str(verdict))
                for report, verdict in zip(message.reports, message.verdicts, strict=True)
                if verdict is not None
            ]
            if message.sequence or refused or message.refusals:
                self._outbox.acknowledge(message.sequence, [*message.refusals, *refused])

    async def _take_acks(self, acks: Sequence[agent_pb2.TaskAck]) -> None:
        """Take step runs back that the agent refuses, and let others have them. That it received one, RUNNING tells."""
        for ack in acks:
            lease_id = parse_id(ack.command_id)
            if lease_id is not None and ack.status == agent_pb2.ACK_STATUS_FAILED:
                self._parts.channels.pass_over(self._agent_id, REFUSAL_SECONDS, self._parts.bell.ring)
                await self._parts.dispatch.refused(self._agent_id, lease_id, ack.message)

    async def _catch_up(self, message: agent_pb2.ConnectRequest) -> None:
        """Tell an agent that is back what it missed, before it gets anything new."""
        listed = [*message.heartbeat.running_step_run_ids, *(report.step_run_id for report in message.task_statuses)]
        running = [step for step in map(parse_id, listed) if step is not None]
        # Only a heartbeat says which steps the agent has; a message without one says nothing of the others.
        names_steps = self._batched and message.HasField("heartbeat")
        started = self._welcome.started if names_steps and self._welcome is not None else None
        kept = _kept_jobs(message.heartbeat)
        news = await self._parts.arrivals.catch_up(self._agent_id, running, kept, started=started, late=self._late)
        crashpoint("connect.caught_up")
        for dispatch in news.dispatches:
            self._outbox.dispatch(dispatch)
        for command in news.cancels:
            self._outbox.cancel(command.step_run_id, command.reason)
        for job_id in news.released:
            self._outbox.release(job_id)
        self._parts.channels.take_dispatches(self._outbox)
        self._parts.bell.ring()

    async def _send(self) -> None:
        while (outgoing := await self._outbox.take()) is not None:
            for response in convert.responses(outgoing, self._agent_text, batched=self._batched):
                await self._write(response)
        if self._outbox.superseded:
            raise WriteConflict("the agent has opened another channel")


def _kept_jobs(heartbeat: agent_pb2.ConnectHeartbeat) -> list[UUID]:
    """Return the job runs whose workspace the agent has."""
    return [job for job in map(parse_id, heartbeat.workspace_job_ids) if job is not None]
