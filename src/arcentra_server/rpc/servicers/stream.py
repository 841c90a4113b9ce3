"""StreamService: live views of what changes; AgentChannel comes from its own module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from arcentra_api.stream.v1 import stream_pb2, stream_pb2_grpc
from arcentra_server.rpc.context import Context
from arcentra_server.rpc.convert import stream as convert
from arcentra_server.rpc.convert import stream_events
from arcentra_server.rpc.convert.fields import required_id
from arcentra_server.rpc.parts import AgentParts
from arcentra_server.rpc.servicers.agent_channel import AgentChannelMixin
from arcentra_server.services.journal import Journal, StatusStreams
from arcentra_server.services.logs import LogService


class StreamServicer(AgentChannelMixin, stream_pb2_grpc.StreamServiceServicer):  # type: ignore[misc]  # see below
    """See the module. AgentChannel writes to its context instead of yielding, which the stubs' types do not foresee."""

    def __init__(self, parts: AgentParts, journal: Journal, logs: LogService) -> None:
        super().__init__(parts)
        self._streams = StatusStreams(journal)
        self._logs = logs

    async def StreamStepRunStatus(
        self, request: stream_pb2.StreamStepRunStatusRequest, context: Context
    ) -> AsyncIterator[stream_pb2.StreamStepRunStatusResponse]:
        async with aclosing(self._streams.follow(convert.step_filter(request), request.after_event_id)) as changes:
            async for told in changes:
                yield convert.step_status(told)

    async def StreamJobStatus(
        self, request: stream_pb2.StreamJobStatusRequest, context: Context
    ) -> AsyncIterator[stream_pb2.StreamJobStatusResponse]:
        async with aclosing(self._streams.follow(convert.job_filter(request), request.after_event_id)) as changes:
            async for told in changes:
                yield convert.job_status(told)

    async def StreamPipelineStatus(
        self, request: stream_pb2.StreamPipelineStatusRequest, context: Context
    ) -> AsyncIterator[stream_pb2.StreamPipelineStatusResponse]:
        async with aclosing(self._streams.follow(convert.run_filter(request), request.after_event_id)) as changes:
            async for told in changes:
                yield convert.run_status(told)

    async def StreamAgentStatus(
        self, request: stream_pb2.StreamAgentStatusRequest, context: Context
    ) -> AsyncIterator[stream_pb2.StreamAgentStatusResponse]:
        async with aclosing(self._streams.follow(convert.agent_filter(request), request.after_event_id)) as changes:
            async for told in changes:
                yield convert.agent_status(told)

    async def StreamEvents(
        self, request: stream_pb2.StreamEventsRequest, context: Context
    ) -> AsyncIterator[stream_pb2.StreamEventsResponse]:
        types, wanted = stream_events.event_types(request), stream_events.event_filter(request)
        async with aclosing(self._streams.follow(wanted, request.after_event_id)) as changes:
            async for told in changes:
                if (message := stream_events.event(told, types)) is not None:
                    yield message

    async def StreamStepRunLogs(
        self, request: stream_pb2.StreamStepRunLogsRequest, context: Context
    ) -> AsyncIterator[stream_pb2.StreamStepRunLogsResponse]:
        step_id = required_id(request.step_run_id, "step_run_id", "step run")
        async with aclosing(self._logs.follow(step_id, request.offset, follow=request.follow)) as pieces:
            async for piece in pieces:
                yield convert.log_piece(piece)
