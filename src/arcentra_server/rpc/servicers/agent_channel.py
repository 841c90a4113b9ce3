"""StreamService.AgentChannel: the pull-driven twin of Connect. The agent asks for step runs, and reports one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from uuid import UUID

from arcentra_api.stream.v1 import stream_pb2
from arcentra_server.domain.errors import ArcentraError, LimitExceeded, Unavailable, ValidationError, WriteConflict
from arcentra_server.rpc.channels import Outbox
from arcentra_server.rpc.context import Context, caller, calling_agent
from arcentra_server.rpc.convert import agent as convert
from arcentra_server.rpc.convert.dispatch import complete
from arcentra_server.rpc.parts import AgentParts
from arcentra_server.rpc.welcome import Welcome, welcome

FETCH_SECONDS = 30.0  # how long a fetch waits before it is answered with nothing
MOST_FETCHES = 4  # that wait at the same time on one channel
LARGEST_FETCH = 100


class AgentChannelMixin:
    """The method AgentChannel of StreamService."""

    def __init__(self, parts: AgentParts) -> None:
        self._parts = parts

    async def AgentChannel(
        self, request_iterator: AsyncIterator[stream_pb2.AgentChannelRequest], context: Context
    ) -> None:
        await _Channel(self._parts, calling_agent(""), caller().token_id, context).run(request_iterator)


class _Channel:
    """One agent on AgentChannel."""

    def __init__(self, parts: AgentParts, agent_id: UUID, token_id: str, context: Context) -> None:
        self._parts = parts
        self._agent_id = agent_id
        self._token_id = token_id
        self._welcome: Welcome | None = None
        self._context = context
        self._outbox: Outbox = parts.channels.open(agent_id, pulls=True)
        self._writing = asyncio.Lock()
        self._fetches = 0

    async def run(self, messages: AsyncIterator[stream_pb2.AgentChannelRequest]) -> None:
        try:
            self._welcome = await welcome(self._parts, self._outbox, self._token_id)
            async with asyncio.TaskGroup() as group:
                cancels = group.create_task(self._send_cancels())
                async for message in messages:
                    calling_agent(message.agent_id)
                    if message.HasField("step_run_fetch"):
                        self._start_fetch(group, message)
                    else:
                        await self._take(message)
                cancels.cancel()
        finally:
            self._parts.channels.close(self._outbox)

    async def _take(self, message: stream_pb2.AgentChannelRequest) -> None:
        match message.WhichOneof("payload"):
            case "heartbeat":
                await self._beat(convert.capacity_from(message.heartbeat.max_concurrent_step_runs))
                ack = stream_pb2.HeartbeatAck(server_time=int(time.time()), success=True)
                await self._write(message, heartbeat_ack=ack)
            case "step_run_status":
                await self._write(message, step_run_status_ack=await self._report(message.step_run_status))
            case "metrics":
                await self._beat(metrics=convert.clean_metrics(_metrics(message.metrics)))
            case _:
                raise ValidationError.at("payload", "is needed")

    async def _beat(self, capacity: int | None = None, metrics: Mapping[str, str] | None = None) -> None:
        standing = await self._parts.agents.heartbeat(self._agent_id, capacity, metrics)
        if self._welcome is not None:
            self._welcome.beaten(standing)

    async def _report(self, update: stream_pb2.StepRunStatusUpdate) -> stream_pb2.StepRunStatusAck:
        try:
            [refusal] = await self._parts.reports.submit([convert.report_from(update, self._agent_id)])
        except ArcentraError as error:
            # With its traceback it would be in a cycle with this frame, and so keep the message.
            refusal = error.with_traceback(None)
        return stream_pb2.StepRunStatusAck(
            step_run_id=update.step_run_id,
            accepted=refusal is None,
            reason=refusal.reason if refusal else "",
            message=str(refusal) if refusal else "",
        )

    def _start_fetch(self, group: asyncio.TaskGroup, message: stream_pb2.AgentChannelRequest) -> None:
        if self._fetches >= MOST_FETCHES:
            raise LimitExceeded(f"at most {MOST_FETCHES} fetches wait at the same time")
        self._fetches += 1
        group.create_task(self._fetch(message))

    async def _fetch(self, message: stream_pb2.AgentChannelRequest) -> None:
        wanted = min(max(message.step_run_fetch.max_step_runs, 1), LARGEST_FETCH)
        try:
            found = await self._parts.dispatch.fetch(self._agent_id, wanted, FETCH_SECONDS)
        finally:
            self._fetches -= 1
        assignment = stream_pb2.StepRunAssignment(step_runs=[complete(dispatch) for dispatch in found])
        await self._write(message, step_run_assignment=assignment)

    async def _send_cancels(self) -> None:
        while (outgoing := await self._outbox.take()) is not None:
            for step_id, reason in outgoing.cancels.items():
                command = stream_pb2.StepRunCancelCommand(step_run_id=str(step_id), reason=reason)
                await self._write(None, step_run_cancel_command=command)
            if outgoing.settings is not None:
                await self._write(None, config_update=convert.config_update(outgoing.settings))
            if outgoing.reconnect:
                raise Unavailable("the server is stopping: connect again")
        if self._outbox.superseded:
            raise WriteConflict("the agent has opened another channel")

    async def _write(
        self,
        request: stream_pb2.AgentChannelRequest | None,
        *,
        heartbeat_ack: stream_pb2.HeartbeatAck | None = None,
        step_run_status_ack: stream_pb2.StepRunStatusAck | None = None,
        step_run_assignment: stream_pb2.StepRunAssignment | None = None,
        step_run_cancel_command: stream_pb2.StepRunCancelCommand | None = None,
        config_update: stream_pb2.ConfigUpdate | None = None,
    ) -> None:
        response = stream_pb2.AgentChannelResponse(
            agent_id=str(self._agent_id),
            response_id=request.request_id if request else "",
            heartbeat_ack=heartbeat_ack,
            step_run_status_ack=step_run_status_ack,
            step_run_assignment=step_run_assignment,
            step_run_cancel_command=step_run_cancel_command,
            config_update=config_update,
        )
        async with self._writing:
            await self._context.write(response)


def _metrics(metrics: stream_pb2.AgentMetrics) -> dict[str, str]:
    """Return the metrics of an agent as text by name; usage is in percent."""
    known = {
        "cpu_usage": str(metrics.cpu_usage),
        "memory_usage": str(metrics.memory_usage),
        "disk_usage": str(metrics.disk_usage),
        "running_step_runs": str(metrics.running_step_runs),
    }
    return {**known, **{name: value for name, value in metrics.custom_metrics.items() if name not in known}}
