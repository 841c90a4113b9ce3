"""Fake agents: they hold Connect and report each dispatched step run RUNNING and then SUCCESS, and run nothing."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field

from grpc import aio

from arcentra_api.agent.v1 import agent_pb2, agent_pb2_grpc
from arcentra_api.steprun.v1 import steprun_pb2
from benchmarks.load.tally import Tally

# An agent is a machine of its own: its stream does not share a connection with those of others.
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
REGISTRATIONS_AT_ONCE = 16
HEARTBEAT_SECONDS = 10.0

Stream = aio.StreamStreamCall[agent_pb2.ConnectRequest, agent_pb2.ConnectResponse]


@dataclass(frozen=True, slots=True)
class Sent:
    """One message that waits for its acknowledgement."""

    sequence: int
    starting: list[agent_pb2.TaskStatus]
    finishing: list[agent_pb2.TaskStatus]


@dataclass(slots=True)
class FakeAgent:
    """One agent with one Connect stream; `heard` is set once the server has said something on it."""

    tally: Tally
    channel: aio.Channel
    agent_id: str
    auth_token: str
    slots: int
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    _running: set[str] = field(default_factory=set)
    _refused: set[str] = field(default_factory=set)
    _starting: list[agent_pb2.TaskStatus] = field(default_factory=list)
    _finishing: list[agent_pb2.TaskStatus] = field(default_factory=list)
    _unacked: deque[Sent] = field(default_factory=deque)
    _sequence: int = 0
    _beat_due: bool = True
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Hold the stream until cancelled.

        Raises:
            ConnectionError: the server ended the stream.
        """
        stub = agent_pb2_grpc.AgentServiceStub(self.channel)
        stream = stub.Connect(metadata=(("authorization", f"Bearer {self.auth_token}"),))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send(stream))
            tasks.create_task(self._beat())
            async for response in stream:
                self._receive(response)
            raise ConnectionError(f"the server ended the stream of {self.agent_id}: {await stream.details()}")

    async def _beat(self) -> None:
        """Make a heartbeat due, at once (the first message of a stream) and then regularly."""
        while True:
            self._beat_due = True
            self._wake.set()
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _send(self, stream: Stream) -> None:
        """Send everything that waits in one message, again and again."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._sequence += 1
            sent = Sent(self._sequence, self._starting, self._finishing)
            self._starting, self._finishing = [], []
            request = agent_pb2.ConnectRequest(agent_id=self.agent_id, sequence=sent.sequence)
            request.task_statuses.extend(sent.finishing)
            request.task_statuses.extend(sent.starting)
            if self._beat_due:
                self._beat_due = False
                request.heartbeat.CopyFrom(self._heartbeat())
            self._unacked.append(sent)
            self.tally.messages_out += 1
            await stream.write(request)

    def _heartbeat(self) -> agent_pb2.ConnectHeartbeat:
        running = len(self._running)
        return agent_pb2.ConnectHeartbeat(
            timestamp=int(time.time()),
            status=agent_pb2.AGENT_STATUS_ONLINE if running else agent_pb2.AGENT_STATUS_IDLE,
            running_step_runs_count=running,
            max_concurrent_step_runs=self.slots,
            running_step_run_ids=self._running,
        )

    def _receive(self, response: agent_pb2.ConnectResponse) -> None:
        self.tally.messages_in += 1
        self.heard.set()
        for refusal in response.refusals:
            self.tally.refused += 1
            self._refused.add(refusal.step_run_id)
        self._acknowledge(response.acked_sequence)
        if response.HasField("task_dispatch"):
            self._start(response.task_dispatch.step_runs)
        self.tally.cancelled += len(response.task_cancels) + response.HasField("task_cancel")

    def _start(self, steps: Iterable[agent_pb2.StepRun]) -> None:
        """Ask for the server's consent to run: the process of a real agent starts once RUNNING is acknowledged."""
        now = int(time.time())
        for step in steps:
            if self.tally.dispatch(step):
                self._running.add(step.step_run_id)
                self._starting.append(
                    agent_pb2.TaskStatus(
                        step_run_id=step.step_run_id,
                        status=steprun_pb2.STEP_RUN_STATUS_RUNNING,
                        timestamp=now,
                        lease_token=step.lease_token,
                        attempt=step.attempt,
                    )
                )
                self._wake.set()

    def _acknowledge(self, acked_sequence: int) -> None:
        """Finish the step runs whose RUNNING was accepted, and count those whose SUCCESS was."""
        while self._unacked and self._unacked[0].sequence <= acked_sequence:
            sent = self._unacked.popleft()
            done = 0
            for status in sent.finishing:
                self._running.discard(status.step_run_id)
                done += status.step_run_id not in self._refused
            if done:
                self.tally.finish(done)
            for status in sent.starting:
                if status.step_run_id not in self._refused:
                    status.status = steprun_pb2.STEP_RUN_STATUS_SUCCESS
                    self._finishing.append(status)
                    self._wake.set()


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many agents of which size to connect to which servers, each of which gets its share of them."""

    targets: tuple[str, ...]
    agents: int
    slots: int
    registration_token: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def connected(self, tally: Tally) -> AsyncIterator[None]:
        """Register all agents, then hold their streams within the context.

        Raises:
            grpc.aio.AioRpcError: a registration or a stream was refused.
            ConnectionError: the server ended a stream.
        """
        async with self.registered(tally) as fleet, asyncio.TaskGroup() as tasks:
            streams = [tasks.create_task(agent.run()) for agent in fleet]
            yield
            for stream in streams:
                stream.cancel()

    @contextlib.asynccontextmanager
    async def registered(self, tally: Tally, *, lobby: aio.Channel | None = None) -> AsyncIterator[list[FakeAgent]]:
        """Register all agents, each with a channel of its own.

        `lobby`: they register over this one, so that none of their own is connected yet.

        Raises:
            grpc.aio.AioRpcError: a registration was refused.
        """
        async with contextlib.AsyncExitStack() as channels:
            gate = asyncio.Semaphore(REGISTRATIONS_AT_ONCE)

            async def register(number: int) -> FakeAgent:
                target = self.targets[number % len(self.targets)]
                channel = await channels.enter_async_context(aio.insecure_channel(target, CHANNEL_OPTIONS))
                async with gate:
                    agent_id, token = await self._register(lobby or channel, number)
                return FakeAgent(tally, channel, agent_id, token, self.slots)

            yield await asyncio.gather(*(register(number) for number in range(self.agents)))

    async def _register(self, channel: aio.Channel, number: int) -> tuple[str, str]:
        """Register one agent; answers its id and its credential."""
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        request = agent_pb2.RegisterRequest(
            agent_name=f"bench-{number:04}",
            os="linux",
            arch="amd64",
            version="benchmark",
            max_concurrent_step_runs=self.slots,
            registration_token=self.registration_token,
            labels=self.labels,
        )
        response = await stub.Register(request)
        return response.agent_id, response.auth_token
