"""An agent on Connect: one stream at a time, with everything that is not settled in the first message of each."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from grpc import aio

from arcentra_api.agent.v1 import agent_pb2, agent_pb2_grpc
from tests.support.simagent.journal import boot_time
from tests.support.simagent.steps import Key, Steps

_MOST_REPORTS = 500


@dataclass(slots=True)
class _Sent:
    sequence: int
    at: float
    reports: list[Key]
    beats: bool


@dataclass
class ConnectSession:
    """One stream. `answer_seconds`: how long an answer may stay away before the stream is given up."""

    agent_id: str
    metadata: tuple[tuple[str, str], ...]
    steps: Steps
    slots: int
    heartbeat: float
    answer_seconds: float
    _sequence: int = 0
    _sent: deque[_Sent] = field(default_factory=deque)
    _reported: set[Key] = field(default_factory=set)
    _refused: dict[Key, str] = field(default_factory=dict)
    _beat_due: bool = True
    answered: bool = False

    async def run(self, channel: aio.Channel, processes: asyncio.TaskGroup) -> None:
        """Hold the stream until it ends.

        Raises:
            ConnectionError: the server asked for another one, or does not answer.
            AioRpcError: the server ended it, or cannot be reached.
        """
        stream: Any = agent_pb2_grpc.AgentServiceStub(channel).Connect(metadata=self.metadata)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(stream))
                group.create_task(self._beat())
                async for response in stream:
                    self._receive(response, processes)
                raise ConnectionError("the server ended the stream")
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            stream.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.heartbeat)
            if self._sent and boot_time() - self._sent[0].at > self.answer_seconds:
                raise ConnectionError("the server does not answer")
            self._beat_due = True
            self.steps.changed.set()

    async def _send(self, stream: Any) -> None:
        while True:
            self.steps.changed.clear()
            request, sent = self._message()
            if request is not None:
                self._sent.append(sent)
                try:
                    await stream.write(request)
                except asyncio.InvalidStateError as error:
                    raise ConnectionError("the stream has ended") from error
            await self.steps.changed.wait()

    def _message(self) -> tuple[agent_pb2.ConnectRequest | None, _Sent]:
        fresh = [key for key in self.steps.unsettled if key not in self._reported][:_MOST_REPORTS]
        sent = _Sent(self._sequence + 1, boot_time(), fresh, self._beat_due)
        if not fresh and not self._beat_due:
            return None, sent
        self._sequence += 1
        request = agent_pb2.ConnectRequest(agent_id=self.agent_id, sequence=self._sequence)
        request.task_statuses.extend(self.steps.unsettled[key] for key in fresh)
        self._reported.update(fresh)
        if self._beat_due:
            self._beat_due = False
            beat = request.heartbeat
            beat.timestamp = self.steps.now()
            beat.max_concurrent_step_runs = self.slots
            beat.running_step_run_ids.extend(self.steps.names)
        return request, sent

    def _receive(self, response: agent_pb2.ConnectResponse, processes: asyncio.TaskGroup) -> None:
        self.answered = True
        for refusal in response.refusals:
            self._refused[refusal.step_run_id, refusal.status] = refusal.reason
        while self._sent and self._sent[0].sequence <= response.acked_sequence:
            sent = self._sent.popleft()
            if sent.beats:
                self.steps.feed(sent.at)
            for key in sent.reports:
                # The step run may come again under another lease, and is then reported again.
                self._reported.discard(key)
                self.steps.settled(key, self._refused.pop(key, ""))
        for run in response.task_dispatch.step_runs:
            self.steps.take(processes, run)
        for cancel in [*response.task_cancels, response.task_cancel]:
            if cancel.step_run_id:
                self.steps.cancel(cancel.step_run_id)
        if response.reconnect:
            raise ConnectionError("the server is about to stop")
