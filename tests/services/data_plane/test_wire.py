"""The gateway and the streams through real stubs."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from dataclasses import dataclass
from uuid import UUID

import grpc
import pytest
from backports import zstd
from google.protobuf import struct_pb2
from grpc import aio

from arcentra_api.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2, stream_pb2_grpc
from arcentra_server.db.engine import Database, new_id
from arcentra_server.domain.identity import Role, TokenKind
from arcentra_server.domain.standing import Settings
from arcentra_server.domain.states import AgentStatus, RunStatus, StepStatus
from arcentra_server.rpc.channels import AgentChannels
from arcentra_server.rpc.interceptors.guard import Guard
from arcentra_server.rpc.parts import AgentParts
from arcentra_server.rpc.servicers.gateway import GatewayServicer
from arcentra_server.rpc.servicers.stream import StreamServicer
from arcentra_server.services.agent_events import AgentEventService
from arcentra_server.services.agents import AgentFacts
from arcentra_server.services.journal import Journal
from arcentra_server.services.logs import LogService
from tests.support import factories
from tests.support.world import World

ACK = gateway_pb2.IngestAck
STEP = steprun_pb2


@dataclass
class Wire:
    """A server, an agent of it, and a step run that the agent runs."""

    database: Database
    journal: Journal
    gateway: gateway_pb2_grpc.GatewayServiceStub
    streams: stream_pb2_grpc.StreamServiceStub
    agent_id: UUID
    run_id: UUID
    step_id: UUID
    agent: tuple[tuple[str, str], ...]
    user: tuple[tuple[str, str], ...]

    def push_logs(self, *frames: gateway_pb2.PushLogsRequest) -> Awaitable[gateway_pb2.PushLogsResponse]:
        return self.gateway.PushLogs(iter(frames), metadata=self.agent)

    def push_events(self, *frames: gateway_pb2.PushEventsRequest) -> Awaitable[gateway_pb2.PushEventsResponse]:
        return self.gateway.PushEvents(iter(frames), metadata=self.agent)

    def hello(self) -> gateway_pb2.AgentHandshake:
        return gateway_pb2.AgentHandshake(agent_id=str(self.agent_id))

    def log(self, seq: int, raw: bytes, **fields: object) -> gateway_pb2.PushLogsRequest:
        batch = gateway_pb2.LogBatch(
            batch_id=f"b{seq}",
            meta=gateway_pb2.Meta(step_id=str(self.step_id), seq=seq),
            compression=gateway_pb2.LogBatch.COMPRESSION_ZSTD,
            data=zstd.compress(raw),
            raw_size=len(raw),
        )
        batch.MergeFrom(gateway_pb2.LogBatch(**fields))  # type: ignore[arg-type]
        return gateway_pb2.PushLogsRequest(batch=batch)

    def event(self, seq: int, payload: struct_pb2.Struct | None = None) -> gateway_pb2.Event:
        meta = gateway_pb2.Meta(agent_id=str(self.agent_id), step_id=str(self.step_id), seq=seq)
        meta.timestamp.seconds = 1_700_000_000
        return gateway_pb2.Event(event_id=f"e{seq}", meta=meta, event_type="cache.hit", payload=payload)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
async def wire(dsn: str) -> AsyncIterator[Wire]:
    async with World(dsn) as world, asyncio.TaskGroup() as group:
        logs = LogService(world.database, world.server.vault)
        events, journal = AgentEventService(world.database), Journal(world.database)
        server = aio.server(
            interceptors=[Guard(world.server.auth, lambda *_: None)], options=[("grpc.so_reuseport", 0)]
        )
        parts = AgentParts(
            world.server.agents,
            world.server.arrivals,
            world.server.dispatch,
            world.server.reports,
            AgentChannels(),
            world.server.bell,
            Settings(heartbeat_ms=10_000, lease_ms=30_000),
        )
        gateway = GatewayServicer(logs, events, handshake_seconds=5, idle_seconds=0.2)
        gateway_pb2_grpc.add_GatewayServiceServicer_to_server(gateway, server)
        stream_pb2_grpc.add_StreamServiceServicer_to_server(StreamServicer(parts, journal, logs), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()

        async def read() -> None:
            while True:
                await journal.run_once()
                await journal.wait()

        tasks = [group.create_task(work) for work in (logs.run(), events.run(), read())]
        token = await world.server.auth.issue(TokenKind.REGISTRATION, "one", Role.AGENT)
        joined = await world.server.agents.register(token, AgentFacts("worker", labels={"os": "linux"}))
        user = await world.server.auth.issue(TokenKind.USER, "anna", Role.VIEWER)
        async with world.database.transaction() as tx:
            run_id = await factories.run(tx, await factories.pipeline(tx, name="site"))
            job_id = await factories.job(tx, run_id, name="build")
            step_id = await factories.step(tx, job_id, name="compile", agent_id=joined.agent_id)
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Wire(
                world.database,
                journal,
                gateway_pb2_grpc.GatewayServiceStub(channel),
                stream_pb2_grpc.StreamServiceStub(channel),
                joined.agent_id,
                run_id,
                step_id,
                bearer(joined.token),
                bearer(user),
            )
        await server.stop(None)
        for task in tasks:
            task.cancel()


async def status(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_logs_in_and_out(wire: Wire) -> None:
    hello = gateway_pb2.PushLogsRequest(handshake=wire.hello())
    answer = await wire.push_logs(hello, wire.log(1, b"one\n"), wire.log(2, b"two\n" * 200_000), wire.log(4, b"x"))
    assert answer.ack.status == ACK.STATUS_OUT_OF_ORDER
    assert (answer.ack.last_accepted_seq, answer.ack.expected_seq, list(answer.ack.rejected_seqs)) == (2, 3, [4])
    [rejection] = answer.ack.rejections
    assert (rejection.seq, rejection.step_id, rejection.reason) == (4, str(wire.step_id), "OUT_OF_ORDER")
    lost = await wire.push_logs(hello, wire.log(3, b"end\n", offset=800_104))
    assert (lost.ack.status, lost.ack.lost_bytes) == (ACK.STATUS_ACCEPTED, 100)
    request = stream_pb2.StreamStepRunLogsRequest(step_run_id=str(wire.step_id), offset=2)
    pieces = [piece async for piece in wire.streams.StreamStepRunLogs(request, metadata=wire.user)]
    assert b"".join(piece.data for piece in pieces) == b"e\n" + b"two\n" * 200_000 + b"end\n"
    assert [(piece.offset, piece.lost_bytes) for piece in pieces if piece.lost_bytes] == [(800_004, 100)]
    assert max(len(piece.data) for piece in pieces) <= 256 * 1024


async def test_what_push_logs_refuses(wire: Wire) -> None:
    hello = gateway_pb2.PushLogsRequest(handshake=wire.hello())
    stranger = gateway_pb2.PushLogsRequest(handshake=gateway_pb2.AgentHandshake(agent_id=str(new_id())))
    invalid, denied = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED
    assert (await status(wire.push_logs()))[0] is invalid
    assert (await status(wire.push_logs(wire.log(1, b"x"))))[0] is invalid
    assert (await status(wire.push_logs(hello, hello)))[0] is invalid
    assert (await status(wire.push_logs(stranger)))[0] is denied
    bomb = zstd.compress(bytes(64 << 20))
    assert await status(wire.push_logs(hello, wire.log(1, b"x", data=bomb))) == (
        invalid,
        "batch.data: log batch exceeds 1 MiB uncompressed",
    )
    foreign = wire.log(1, b"x", meta=gateway_pb2.Meta(agent_id=str(new_id())))
    assert (await status(wire.push_logs(hello, foreign)))[0] is denied
    unknown = wire.log(1, b"x", meta=gateway_pb2.Meta(step_id=str(new_id())))
    answer = await wire.push_logs(hello, unknown)
    assert (answer.ack.status, answer.ack.rejections[0].reason) == (ACK.STATUS_REJECTED, "NOT_LEASED")


async def test_a_stream_on_which_nothing_comes_is_ended(wire: Wire) -> None:
    over = asyncio.Event()

    async def silent() -> AsyncIterator[gateway_pb2.PushLogsRequest]:
        yield gateway_pb2.PushLogsRequest(handshake=wire.hello())
        await over.wait()

    call = wire.gateway.PushLogs(silent(), metadata=wire.agent)
    assert await status(call) == (grpc.StatusCode.DEADLINE_EXCEEDED, "stream idle")
    over.set()


async def test_events_in(wire: Wire) -> None:
    hello = gateway_pb2.PushEventsRequest(handshake=wire.hello())
    payload, endless = struct_pb2.Struct(), struct_pb2.Struct()
    payload.update({"text": "nul \0 here", "n": 3, "deep": {"list": [1.5, None, True]}})
    endless.update({"n": float("inf")})
    events = [wire.event(1, payload), wire.event(2, endless), wire.event(3)]
    answer = await wire.push_events(hello, gateway_pb2.PushEventsRequest(batch=gateway_pb2.EventBatch(events=events)))
    assert (answer.ack.status, answer.ack.last_accepted_seq) == (ACK.STATUS_PARTIAL_ACCEPTED, 3)
    assert [(r.seq, r.event_id, r.reason) for r in answer.ack.rejections] == [(2, "e2", "INVALID_ARGUMENT")]
    async with wire.database.transaction() as tx:
        stored = await tx.fetchrow("SELECT payload, step_run_id, occurred_at FROM agent_events WHERE seq = 1")
    assert stored is not None
    assert stored["payload"] == {"text": "nul \ufffd here", "n": 3, "deep": {"list": [1.5, None, True]}}
    assert (stored["step_run_id"], int(stored["occurred_at"].timestamp())) == (str(wire.step_id), 1_700_000_000)
    many = gateway_pb2.EventBatch(events=[wire.event(seq) for seq in range(1, 258)])
    refused = wire.push_events(hello, gateway_pb2.PushEventsRequest(batch=many))
    assert (await status(refused))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_status_streams(wire: Wire) -> None:
    run = str(wire.run_id)
    by_run = stream_pb2.StreamStepRunStatusRequest(pipeline_run_id=run)
    steps = aiter(wire.streams.StreamStepRunStatus(by_run, metadata=wire.user))
    one_run = stream_pb2.StreamPipelineStatusRequest(pipeline_run_ids=[run])
    runs = aiter(wire.streams.StreamPipelineStatus(one_run, metadata=wire.user))
    step, state = await anext(steps), await anext(runs)
    assert (step.status, step.previous_status) == (STEP.STEP_RUN_STATUS_RUNNING, STEP.STEP_RUN_STATUS_UNSPECIFIED)
    assert (step.job_name, step.step_name, step.agent_id) == ("build", "compile", str(wire.agent_id))
    assert (state.namespace, state.status) == ("default", pipeline_pb2.PIPELINE_STATUS_RUNNING)
    async with wire.database.transaction() as tx:
        await factories.set_step(tx, wire.step_id, StepStatus.FAILED)
        await tx.execute("UPDATE step_runs SET exit_code = 3, error_message = 'no', metrics = $1", {"cpu": "1"})
        await factories.set_run(tx, wire.run_id, RunStatus.FAILED)
    wire.journal.wake()
    [ended] = [message async for message in steps]
    assert (ended.status, ended.previous_status) == (STEP.STEP_RUN_STATUS_FAILED, STEP.STEP_RUN_STATUS_RUNNING)
    assert (ended.exit_code, ended.error_message, dict(ended.metrics)) == (3, "no", {"cpu": "1"})
    [last] = [message async for message in runs]
    assert (last.status, last.previous_status) == (
        pipeline_pb2.PIPELINE_STATUS_FAILED,
        pipeline_pb2.PIPELINE_STATUS_RUNNING,
    )
    assert all(message.event_id for message in (step, state))
    assert int(ended.event_id) < int(last.event_id)


async def test_job_status_stream(wire: Wire) -> None:
    request = stream_pb2.StreamJobStatusRequest(pipeline_run_id=str(wire.run_id))
    async for job in wire.streams.StreamJobStatus(request, metadata=wire.user):
        assert (job.job_name, job.total_steps, job.status) == ("build", 1, pipeline_pb2.PIPELINE_STATUS_RUNNING)
        break


async def test_event_stream(wire: Wire) -> None:
    request = stream_pb2.StreamEventsRequest(
        resource_type="step_run",
        event_types=[stream_pb2.EVENT_TYPE_STEP_RUN_STARTED, stream_pb2.EVENT_TYPE_STEP_RUN_FAILED],
    )
    events = aiter(wire.streams.StreamEvents(request, metadata=wire.user))
    first = await anext(events)
    assert (first.event_type, first.metadata["status"]) == (stream_pb2.EVENT_TYPE_STEP_RUN_STARTED, "RUNNING")
    async with wire.database.transaction() as tx:
        await factories.set_step(tx, wire.step_id, StepStatus.FAILED)
    wire.journal.wake()
    second = await anext(events)
    assert (second.event_type, second.title) == (stream_pb2.EVENT_TYPE_STEP_RUN_FAILED, "Step build/compile failed")
    assert (second.resource_id, second.metadata["previous_status"]) == (str(wire.step_id), "RUNNING")


async def test_agent_status_stream(wire: Wire) -> None:
    agents = aiter(wire.streams.StreamAgentStatus(stream_pb2.StreamAgentStatusRequest(), metadata=wire.user))
    first = await anext(agents)
    assert (first.hostname, dict(first.labels), first.status) == (
        "worker",
        {"os": "linux"},
        stream_pb2.AGENT_STATUS_OFFLINE,
    )
    async with wire.database.transaction() as tx:
        await tx.execute("UPDATE agents SET metrics = $1", {"cpu_usage": "12.5", "gpu": "1", "disk_usage": "much"})
        await factories.set_agent(tx, wire.agent_id, AgentStatus.IDLE)
    wire.journal.wake()
    second = await anext(agents)
    assert (second.status, second.previous_status) == (stream_pb2.AGENT_STATUS_IDLE, stream_pb2.AGENT_STATUS_OFFLINE)
    assert (second.metrics.cpu_usage, dict(second.metrics.custom_metrics)) == (12.5, {"gpu": "1"})


async def test_what_streams_refuse(wire: Wire) -> None:
    nobody = str(new_id())
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    streams, user = wire.streams, wire.user
    logs, jobs, events = streams.StreamStepRunLogs, streams.StreamJobStatus, streams.StreamEvents
    calls: list[tuple[AsyncIterable[object], grpc.StatusCode]] = [
        (logs(stream_pb2.StreamStepRunLogsRequest(), metadata=user), invalid),
        (logs(stream_pb2.StreamStepRunLogsRequest(step_run_id="x"), metadata=user), missing),
        (jobs(stream_pb2.StreamJobStatusRequest(job_ids=[nobody]), metadata=user), missing),
        (events(stream_pb2.StreamEventsRequest(resource_type="cat"), metadata=user), invalid),
        (
            events(stream_pb2.StreamEventsRequest(event_types=[stream_pb2.EVENT_TYPE_UNSPECIFIED]), metadata=user),
            invalid,
        ),
        (events(stream_pb2.StreamEventsRequest(after_event_id="x"), metadata=user), invalid),
    ]
    for call, expected in calls:
        with pytest.raises(aio.AioRpcError) as caught:
            await anext(aiter(call))
        assert caught.value.code() is expected
