"""GatewayService: what agents send in bulk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NoReturn, TypeVar
from uuid import UUID

import grpc

from arcentra_api.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.event_order import AgentEvent
from arcentra_server.domain.log_order import LogBatch
from arcentra_server.rpc.context import Context, calling_agent
from arcentra_server.rpc.convert import gateway as convert
from arcentra_server.services.agent_events import AgentEventService
from arcentra_server.services.logs import LogService

Request = TypeVar("Request", gateway_pb2.PushLogsRequest, gateway_pb2.PushEventsRequest)


class GatewayServicer(gateway_pb2_grpc.GatewayServiceServicer):
    """See the proto. A stream on which nothing comes is ended: the handshake is due at once, a batch now and then."""

    def __init__(
        self, logs: LogService, events: AgentEventService, *, handshake_seconds: float = 5, idle_seconds: float = 60
    ) -> None:
        self._logs = logs
        self._events = events
        self._handshake_seconds = handshake_seconds
        self._idle_seconds = idle_seconds

    async def PushLogs(
        self, request_iterator: AsyncIterator[gateway_pb2.PushLogsRequest], context: Context
    ) -> gateway_pb2.PushLogsResponse:
        requests = self._timed(request_iterator, context)
        agent_id = await _handshake(requests)
        result = await self._logs.append(agent_id, _log_batches(requests))
        return gateway_pb2.PushLogsResponse(ack=convert.ingest_ack(result))

    async def PushEvents(
        self, request_iterator: AsyncIterator[gateway_pb2.PushEventsRequest], context: Context
    ) -> gateway_pb2.PushEventsResponse:
        requests = self._timed(request_iterator, context)
        agent_id = await _handshake(requests)
        result = await self._events.append(agent_id, _event_batches(requests))
        return gateway_pb2.PushEventsResponse(ack=convert.ingest_ack(result))

    async def _timed(self, requests: AsyncIterator[Request], context: Context) -> AsyncIterator[Request]:
        patience = self._handshake_seconds
        while True:
            try:
                async with asyncio.timeout(patience):
                    request = await anext(requests, None)
            except TimeoutError:
                await _idle(context)
            if request is None:
                return
            yield request
            patience = self._idle_seconds


async def _idle(context: Context) -> NoReturn:
    await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "stream idle")
    raise AssertionError("abort returned")


async def _handshake(requests: AsyncIterator[Request]) -> UUID:
    first = await anext(requests, None)
    if first is None or not first.HasField("handshake"):
        raise ValidationError.at("handshake", "is required as the first message")
    return calling_agent(first.handshake.agent_id)


async def _log_batches(requests: AsyncIterator[gateway_pb2.PushLogsRequest]) -> AsyncIterator[LogBatch]:
    async for request in requests:
        _check_batch(request)
        _check_agent(request.batch.meta)
        yield convert.log_batch(request.batch)


async def _event_batches(requests: AsyncIterator[gateway_pb2.PushEventsRequest]) -> AsyncIterator[list[AgentEvent]]:
    async for request in requests:
        _check_batch(request)
        for event in request.batch.events:
            _check_agent(event.meta)
        yield convert.agent_events(request.batch)


def _check_batch(request: gateway_pb2.PushLogsRequest | gateway_pb2.PushEventsRequest) -> None:
    if not request.HasField("batch"):
        raise ValidationError.at("batch", "is required in every message after the first")


def _check_agent(meta: gateway_pb2.Meta) -> None:
    if meta.agent_id:
        calling_agent(meta.agent_id)
