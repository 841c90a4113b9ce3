"""What an agent sends in bulk: logs and events, again and again until the server has them."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import grpc
from grpc import aio

from arcentra_api.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from tests.support.simagent.journal import Journal

_CHUNK = 700  # small, so that most logs are several batches
_CALL_SECONDS = 20.0
_MOST_EVENTS = 50
_PERMANENT = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED}


@dataclass(slots=True)
class Shipper:
    """Sends logs, each in calls of its own, and events in the order of their seq."""

    agent_id: str
    metadata: tuple[tuple[str, str], ...]
    journal: Journal
    chance: random.Random
    channel: aio.Channel | None = None
    events: list[str] = field(default_factory=list)  # ids, of seq 1 and so on
    stored_events: int = 0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def add_event(self) -> None:
        """Make one event; it is on the disk before it is sent."""
        event_id = str(UUID(int=self.chance.getrandbits(128)))
        self.journal.write("event", seq=len(self.events) + 1, event_id=event_id)
        self.events.append(event_id)
        self._wake.set()

    async def send_log(self, step_run_id: str, log: bytes) -> None:
        """Send the log of a step; return when it is stored, or refused for good."""
        requests = [gateway_pb2.PushLogsRequest(handshake=gateway_pb2.AgentHandshake(agent_id=self.agent_id))]
        for place, offset in enumerate(range(0, len(log), _CHUNK), 1):
            data = log[offset : offset + _CHUNK]
            batch = gateway_pb2.LogBatch(
                batch_id=f"{step_run_id}-{place}",
                meta=gateway_pb2.Meta(agent_id=self.agent_id, step_id=step_run_id, seq=place),
                data=data,
                raw_size=len(data),
                offset=offset,
            )
            requests.append(gateway_pb2.PushLogsRequest(batch=batch))
        await self._push("PushLogs", requests)

    async def run(self) -> None:
        """Send events as they come until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self.stored_events < len(self.events):
                ack = await self._push("PushEvents", self._event_requests())
                if ack is None:
                    return
                self.stored_events = ack.last_accepted_seq
                self.journal.write("stored", seq=self.stored_events)

    def wake(self) -> None:
        self._wake.set()

    def _event_requests(self) -> list[Any]:
        first = self.stored_events
        batch = gateway_pb2.EventBatch(batch_id=f"{self.agent_id}-{first}")
        for seq, event_id in list(enumerate(self.events, 1))[first : first + _MOST_EVENTS]:
            meta = gateway_pb2.Meta(agent_id=self.agent_id, seq=seq)
            batch.events.append(gateway_pb2.Event(event_id=event_id, meta=meta, event_type="simulated"))
        handshake = gateway_pb2.AgentHandshake(agent_id=self.agent_id, last_known_seq=first)
        return [gateway_pb2.PushEventsRequest(handshake=handshake), gateway_pb2.PushEventsRequest(batch=batch)]

    async def _push(self, method: str, requests: list[Any]) -> Any:
        """Make one call until it is answered; return its ack, None when it is refused for good."""
        pause = 0.05
        while True:
            if self.channel is not None:
                call = getattr(gateway_pb2_grpc.GatewayServiceStub(self.channel), method)
                try:
                    return (await call(iter(requests), metadata=self.metadata, timeout=_CALL_SECONDS)).ack
                except aio.AioRpcError as error:
                    if error.code() in _PERMANENT:
                        return None
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task is not None and task.cancelling():
                        raise
                    # The channel was closed under the call, as another one was opened.
            await asyncio.sleep(pause * self.chance.uniform(0.5, 1.5))
            pause = min(2 * pause, 1.0)
