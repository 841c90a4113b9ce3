"""An agent that pulls: heartbeats, fetches and reports are calls of their own, each repeated until it is answered."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import aio

from arcentra_api.agent.v1 import agent_pb2, agent_pb2_grpc
from tests.support.simagent.journal import boot_time
from tests.support.simagent.steps import Key, Steps

_FETCH_SECONDS = 2
_REFUSALS = {
    grpc.StatusCode.FAILED_PRECONDITION: "LEASE_LOST",
    grpc.StatusCode.PERMISSION_DENIED: "NOT_LEASED",
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_ARGUMENT",
}


@dataclass
class PullSession:
    """See the module. It goes on until it is cancelled, or the agent is no longer known."""

    agent_id: str
    metadata: tuple[tuple[str, str], ...]
    steps: Steps
    slots: int
    heartbeat: float
    answer_seconds: float
    chance: random.Random
    answered: bool = False

    async def run(self, channel: aio.Channel, processes: asyncio.TaskGroup) -> None:
        """Work until cancelled.

        Raises:
            AioRpcError: the server does not know the agent any more.
        """
        stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beat(stub))
                group.create_task(self._fetch(stub, processes))
                group.create_task(self._report(stub))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _beat(self, stub: Any) -> None:
        while True:
            sent_at = boot_time()
            request = agent_pb2.HeartbeatRequest(agent_id=self.agent_id, timestamp=self.steps.now())
            answer = await self._try(stub.Heartbeat, request, self.answer_seconds)
            if answer is None:
                continue  # at once: its leases hang on it, and a server that dies again and again is there for a moment
            self.answered = True
            self.steps.feed(sent_at)
            for cancel in answer.task_cancels:
                self.steps.cancel(cancel.step_run_id)
            await asyncio.sleep(self.heartbeat)

    async def _fetch(self, stub: Any, processes: asyncio.TaskGroup) -> None:
        while True:
            free = self.slots - len(self.steps.held)
            if free <= 0:
                await asyncio.sleep(self.heartbeat / 10)
                continue
            request = agent_pb2.FetchStepRunRequest(
                agent_id=self.agent_id, max_step_runs=free, wait_seconds=_FETCH_SECONDS
            )
            answer = await self._try(stub.FetchStepRun, request, _FETCH_SECONDS + self.answer_seconds)
            for run in answer.step_runs if answer else ():
                self.steps.take(processes, run)
            if answer is None or not answer.step_runs:
                await asyncio.sleep(0.05 * self.chance.uniform(0.5, 1.5))

    async def _report(self, stub: Any) -> None:
        while True:
            self.steps.changed.clear()
            for key in list(self.steps.unsettled):
                await self._report_one(stub, key)
            if not self.steps.unsettled:
                await self.steps.changed.wait()

    async def _report_one(self, stub: Any, key: Key) -> None:
        report = self.steps.unsettled.get(key)
        if report is None:
            return
        request = agent_pb2.ReportStepRunStatusRequest(
            agent_id=self.agent_id,
            step_run_id=report.step_run_id,
            status=report.status,
            exit_code=report.exit_code,
            lease_token=report.lease_token,
            attempt=report.attempt,
            failure_reason=report.failure_reason,
        )
        if report.HasField("log_size"):
            request.log_size = report.log_size
        try:
            await stub.ReportStepRunStatus(request, metadata=self.metadata, timeout=self.answer_seconds)
        except aio.AioRpcError as error:
            if error.code() in _REFUSALS:
                self.steps.settled(key, _REFUSALS[error.code()])
                return
            await self._pause(error)
        else:
            self.steps.settled(key)

    async def _try(self, call: Any, request: Any, seconds: float) -> Any:
        try:
            return await call(request, metadata=self.metadata, timeout=seconds)
        except aio.AioRpcError as error:
            await self._pause(error)
            return None

    async def _pause(self, error: aio.AioRpcError) -> None:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise error
        await asyncio.sleep(0.2 * self.chance.uniform(0.5, 1.5))
