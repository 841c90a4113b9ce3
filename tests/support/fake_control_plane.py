"""A small control plane in memory behind real gRPC, for tests of the agent: the test decides what is dispatched.

It keeps its state over `stop` and `start`, as a server keeps it in its database, and is strict about the contract: a
report needs the lease, a log batch its place in the order.
"""

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import json_format
from grpc import aio

from arcentra_api.agent.v1 import agent_pb2, agent_pb2_grpc
from arcentra_api.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from arcentra_api.steprun.v1 import steprun_pb2

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Ctx = aio.ServicerContext[Any, Any]
REGISTRATION_TOKEN = "arc_reg_of-the-fake"
AGENT_ID = "agent-1"
HEARTBEAT_MS = 500
PENDING, DISABLED = "agent pending approval", "agent is disabled"

RUNNING = steprun_pb2.STEP_RUN_STATUS_RUNNING
SUCCESS = steprun_pb2.STEP_RUN_STATUS_SUCCESS


@dataclass
class FakeStep:
    """A dispatched step run: its lease, its reports as committed, its log as stored."""

    run: agent_pb2.StepRun
    reports: list[agent_pb2.TaskStatus] = field(default_factory=list)
    acks: list[agent_pb2.TaskAck] = field(default_factory=list)
    log: bytearray = field(default_factory=bytearray)
    batch_ids: list[str] = field(default_factory=list)
    duplicates: int = 0
    log_at_end: int | None = None
    refuse_running: str = ""
    refuse_logs: str = ""
    hold_answers: bool = False

    @property
    def statuses(self) -> list[str]:
        return [steprun_pb2.StepRunStatus.Name(item.status).removeprefix("STEP_RUN_STATUS_") for item in self.reports]

    @property
    def is_running(self) -> bool:
        return bool(self.reports) and self.reports[-1].status == RUNNING

    @property
    def end(self) -> agent_pb2.TaskStatus | None:
        return self.reports[-1] if self.reports and self.reports[-1].status != RUNNING else None

    def refusal(self, report: agent_pb2.TaskStatus) -> str:
        """Say why a report is refused, or commit it."""
        if report.lease_token != self.run.lease_token or report.attempt != self.run.attempt:
            return "LEASE_LOST"
        if report.status == RUNNING and self.refuse_running:
            return self.refuse_running
        if any(known.status == report.status for known in self.reports):
            return ""
        if self.end is not None or (report.status != RUNNING and not self.is_running):
            return "INVALID_TRANSITION"
        self.reports.append(report)
        if report.status != RUNNING:
            self.log_at_end = len(self.log)
        return ""

    def store(self, batch: gateway_pb2.LogBatch) -> str:
        """Say why a batch is refused, or store it."""
        if self.refuse_logs:
            return self.refuse_logs
        if batch.meta.seq <= len(self.batch_ids):
            self.duplicates += 1
            # Stricter than a server, which knows a batch by its number: what is sent again has to be the same.
            stored = bytes(self.log[batch.offset : batch.offset + batch.raw_size])
            is_same = self.batch_ids[batch.meta.seq - 1] == batch.batch_id and stored == zstd.decompress(batch.data)
            return "" if is_same else "INVALID_ARGUMENT"
        if batch.meta.seq != len(self.batch_ids) + 1:
            return "OUT_OF_ORDER"
        data = zstd.decompress(batch.data)
        if len(data) != batch.raw_size or batch.offset != len(self.log) or batch.raw_size > 1 << 20:
            return "INVALID_ARGUMENT"
        self.log += data
        self.batch_ids.append(batch.batch_id)
        return ""


class FakeControlPlane(agent_pb2_grpc.AgentServiceServicer, gateway_pb2_grpc.GatewayServiceServicer):
    """What an agent needs of a server."""

    def __init__(self) -> None:
        self.port = 0
        self.tokens: dict[str, str] = {}
        # Tokens that were replaced and still hold.
        self.retired: dict[str, str] = {}
        self.token_life = 0.0
        self.heartbeat_ms = HEARTBEAT_MS
        self.refusal = ""
        self.rotations = 0
        self.beats_without_stream: list[agent_pb2.HeartbeatRequest] = []
        self.refused_streams = 0
        self.labels: dict[str, str] = {}
        self.departures: list[str] = []
        self.registrations: list[agent_pb2.RegisterRequest] = []
        self.heartbeats: list[agent_pb2.ConnectHeartbeat] = []
        self.sequences: list[list[int]] = []
        self.steps: dict[str, FakeStep] = {}
        self.lose_log_answers = 0
        self.lease_ms = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._outbox: asyncio.Queue[agent_pb2.ConnectResponse] | None = None
        self._held = 0  # streams
        self._changed = asyncio.Condition()
        self._server: aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def is_connected(self) -> bool:
        return self._outbox is not None

    async def start(self) -> None:
        """Serve, on the port of the last time if there was one."""
        self._server = aio.server(options=[("grpc.so_reuseport", 0)])
        agent_pb2_grpc.add_AgentServiceServicer_to_server(self, self._server)
        gateway_pb2_grpc.add_GatewayServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Go away at once, as if killed: calls break, nothing is said."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
            await self.until(lambda: not self._held)

    async def until(self, predicate: Callable[[], object]) -> None:
        """Wait until something that happened makes the predicate true."""
        async with self._changed:
            await self._changed.wait_for(predicate)

    async def heartbeat(self, predicate: Callable[[agent_pb2.ConnectHeartbeat], object]) -> None:
        """Wait for a heartbeat that is still to come and makes the predicate true."""
        seen = len(self.heartbeats)
        await self.until(lambda: len(self.heartbeats) > seen and predicate(self.heartbeats[-1]))

    # What the test makes the server do

    def dispatch(self, step_run_id: str, uses: str = "shell", *, lease: str = "", **fields: Any) -> FakeStep:
        """Lease a step run to the agent; `args` is a plain dict."""
        args = fields.pop("args", {})
        run = agent_pb2.StepRun(
            step_run_id=step_run_id,
            uses=uses,
            job_id=fields.pop("job_id", "job-1"),
            pipeline_id="pipeline-1",
            pipeline_run_id="run-1",
            job_name="build",
            step_name="compile",
            command_id=f"command-{lease or step_run_id}",
            lease_token=f"lease-{lease or step_run_id}",
            attempt=1,
            **fields,
        )
        json_format.ParseDict(args, run.args)
        step = self.steps[step_run_id] = FakeStep(run)
        self.deliver(step)
        return step

    def deliver(self, step: FakeStep) -> None:
        self.send(agent_pb2.ConnectResponse(task_dispatch=agent_pb2.TaskDispatch(step_runs=[step.run])))

    def cancel(self, step_run_id: str, reason: str = "") -> None:
        cancel = agent_pb2.TaskCancel(step_run_id=step_run_id, reason=reason)
        self.send(agent_pb2.ConnectResponse(task_cancels=[cancel]))

    def send(self, message: agent_pb2.ConnectResponse) -> None:
        """Send to the connected agent; an absent one gets un-started leases when it comes back."""
        if self._outbox is not None:
            self._outbox.put_nowait(message)

    # The services

    async def Register(  # noqa: N802 - gRPC names the method
        self, request: agent_pb2.RegisterRequest, context: Ctx
    ) -> agent_pb2.RegisterResponse:
        self.registrations.append(request)
        if request.agent_id:
            if request.token != _bearer(context) or self._agent_of(request.token) != request.agent_id:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown agent")
        elif request.registration_token != REGISTRATION_TOKEN or _bearer(context):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "invalid registration token")
        agent_id = request.agent_id or AGENT_ID
        token = request.token or self.tokens.setdefault(agent_id, secrets.token_urlsafe(16))
        self.labels = dict(request.labels)
        await self._tell()
        return agent_pb2.RegisterResponse(
            success=True,
            agent_id=agent_id,
            auth_token=token,
            heartbeat_interval=self.heartbeat_ms,
            labels=request.labels,
            pending_approval=self.refusal == PENDING,
            token_expires_at=self._expiry(),
        )

    async def Heartbeat(  # noqa: N802 - gRPC names the method
        self, request: agent_pb2.HeartbeatRequest, context: Ctx
    ) -> agent_pb2.HeartbeatResponse:
        await self._authenticate(context)
        self.beats_without_stream.append(request)
        await self._tell()
        settings = agent_pb2.AgentSettings(heartbeat_interval=HEARTBEAT_MS, drain=bool(self.refusal))
        return agent_pb2.HeartbeatResponse(success=True, message=self.refusal or "ok", settings=settings)

    async def RotateCredential(  # noqa: N802 - gRPC names the method
        self, request: agent_pb2.RotateCredentialRequest, context: Ctx
    ) -> agent_pb2.RotateCredentialResponse:
        await self._authenticate(context)
        self.retired[_bearer(context)] = request.agent_id
        token = self.tokens[request.agent_id] = secrets.token_urlsafe(16)
        self.rotations += 1
        await self._tell()
        return agent_pb2.RotateCredentialResponse(auth_token=token, token_expires_at=self._expiry())

    async def UpdateLabels(  # noqa: N802 - gRPC names the method
        self, request: agent_pb2.UpdateLabelsRequest, context: Ctx
    ) -> agent_pb2.UpdateLabelsResponse:
        await self._authenticate(context)
        self.labels = {**(self.labels if request.merge else {}), **request.labels}
        await self._tell()
        return agent_pb2.UpdateLabelsResponse(success=True, labels=self.labels)

    async def Unregister(  # noqa: N802 - gRPC names the method
        self, request: agent_pb2.UnregisterRequest, context: Ctx
    ) -> agent_pb2.UnregisterResponse:
        await self._authenticate(context)
        del self.tokens[request.agent_id]
        self.departures.append(request.reason)
        return agent_pb2.UnregisterResponse(success=True)

    async def Connect(  # type: ignore[override]  # noqa: N802 - the stubs know the generator form only
        self, requests: AsyncIterator[agent_pb2.ConnectRequest], context: Ctx
    ) -> None:
        await self._authenticate(context)
        if self.refusal:
            self.refused_streams += 1
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refusal)
        outbox: asyncio.Queue[agent_pb2.ConnectResponse] = asyncio.Queue()
        self._outbox = outbox
        self.sequences.append([])
        if self.lease_ms:
            settings = agent_pb2.AgentSettings(heartbeat_interval=HEARTBEAT_MS, lease_duration=self.lease_ms)
            outbox.put_nowait(agent_pb2.ConnectResponse(settings=settings))
        for step in self.steps.values():
            if not step.reports:
                self.deliver(step)
        self._held += 1
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(context, outbox))
                await self._read(requests, outbox)
                writer.cancel()
        finally:
            self._held -= 1
            if self._outbox is outbox:
                self._outbox = None
            await self._tell()

    async def PushLogs(  # noqa: N802 - gRPC names the method
        self, requests: AsyncIterator[gateway_pb2.PushLogsRequest], context: Ctx
    ) -> gateway_pb2.PushLogsResponse:
        await self._authenticate(context)
        ack = gateway_pb2.IngestAck(status=gateway_pb2.IngestAck.STATUS_ACCEPTED)
        first = True
        async for request in requests:
            if first != request.HasField("handshake"):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a call is one handshake, then batches")
            if not first:
                self._store(request.batch, ack)
            first = False
        await self._tell()
        if self.lose_log_answers > 0:
            self.lose_log_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "stored, and the answer is lost")
        return gateway_pb2.PushLogsResponse(ack=ack)

    def _store(self, batch: gateway_pb2.LogBatch, ack: gateway_pb2.IngestAck) -> None:
        step = self.steps.get(batch.meta.step_id)
        if reason := step.store(batch) if step else "NOT_LEASED":
            ack.status = gateway_pb2.IngestAck.STATUS_PARTIAL_ACCEPTED
            ack.rejections.add(step_id=batch.meta.step_id, seq=batch.meta.seq, reason=reason)

    async def _read(
        self, requests: AsyncIterator[agent_pb2.ConnectRequest], outbox: asyncio.Queue[agent_pb2.ConnectResponse]
    ) -> None:
        async for request in requests:
            self.sequences[-1].append(request.sequence)
            if request.HasField("heartbeat"):
                self.heartbeats.append(request.heartbeat)
            answer = agent_pb2.ConnectResponse(acked_sequence=request.sequence)
            for report in request.task_statuses:
                self._commit(report, answer)
            for ack in request.task_acks:
                for step in self.steps.values():
                    if step.run.command_id == ack.command_id:
                        step.acks.append(ack)
            outbox.put_nowait(answer)
            await self._tell()

    async def _write(self, context: Ctx, outbox: asyncio.Queue[agent_pb2.ConnectResponse]) -> None:
        while True:
            message = await outbox.get()
            await self.may_answer.wait()
            await context.write(message)

    def _commit(self, report: agent_pb2.TaskStatus, answer: agent_pb2.ConnectResponse) -> None:
        step = self.steps.get(report.step_run_id)
        if reason := step.refusal(report) if step else "NOT_LEASED":
            answer.refusals.add(step_run_id=report.step_run_id, status=report.status, reason=reason)
        if step and step.hold_answers:
            # Once: from here on nothing is said until the test allows it.
            step.hold_answers = False
            self.may_answer.clear()

    async def _authenticate(self, context: Ctx) -> None:
        if not self._agent_of(_bearer(context)):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown token")

    def _agent_of(self, token: str) -> str:
        return {**self.retired, **{known: agent_id for agent_id, known in self.tokens.items()}}.get(token, "")

    def _expiry(self) -> int:
        return round(time.time() + self.token_life) if self.token_life else 0

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # Not part of an agent's day.

    async def _unimplemented(self, _request: Any, context: Ctx) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the fake has no such method")

    FetchStepRun: Any = _unimplemented
    ReportStepRunStatus: Any = _unimplemented
    ReportJobRunStatus: Any = _unimplemented
    CancelStepRun: Any = _unimplemented
    CancelJobRun: Any = _unimplemented
    PushEvents: Any = _unimplemented


def _bearer(context: Ctx) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str):
            return value.removeprefix("Bearer ")
    return ""
