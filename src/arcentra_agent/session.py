"""The stream of commands: held open for as long as the agent lives, opened again whenever it breaks."""

import asyncio
import time

import grpc
import structlog
from grpc import aio

from arcentra_agent.channel import Backoff
from arcentra_agent.link import Link
from arcentra_agent.mailbox import Mailbox
from arcentra_agent.steps import StepBoard
from arcentra_agent.workspaces import Workspaces
from arcentra_api.agent.v1 import agent_pb2, agent_pb2_grpc

_CONNECT_TIMEOUT = 10.0
_ITEMS_A_MESSAGE = 256
_log = structlog.get_logger("arcentra_agent")

_Call = aio.StreamStreamCall[agent_pb2.ConnectRequest, agent_pb2.ConnectResponse]


class Session:
    """One writer sends everything pending in one message; one reader hands what comes to the board."""

    def __init__(self, link: Link, mailbox: Mailbox, board: StepBoard, workspaces: Workspaces) -> None:
        self._link = link
        self._mailbox = mailbox
        self._board = board
        self._workspaces = workspaces
        self._backoff = Backoff()

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            JoinRefusedError, CredentialError: when the server does not want this agent (any more).
            OSError: when the credential cannot be stored.
        """
        while True:
            await self._link.ensure_joined()
            try:
                await self._hold_stream()
            except aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    self._link.distrust()
                _log.warning("disconnected", code=error.code().name, reason=error.details())
            except TimeoutError:
                _log.warning("server_unreachable", server=self._link.config.server)
            finally:
                self._mailbox.outbox.rewind()
            await asyncio.sleep(self._backoff.next())

    async def _hold_stream(self) -> None:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            await self._link.channel.channel_ready()
        stub = agent_pb2_grpc.AgentServiceStub(self._link.channel)
        call = stub.Connect(metadata=self._link.metadata)
        ended: aio.AioRpcError | None = None
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(self._write(call), name="session-writer")
            try:
                await self._read(call)
            except aio.AioRpcError as error:
                # Kept and raised below: a task group would wrap it.
                ended = error
            finally:
                writer.cancel()
                call.cancel()
        if ended is not None:
            raise ended

    async def _write(self, call: _Call) -> None:
        clock = asyncio.get_running_loop().time
        interval = self._link.membership.heartbeat_interval
        sequence, next_heartbeat = 0, clock()
        try:
            while True:
                sequence += 1
                message = agent_pb2.ConnectRequest(agent_id=self._link.agent_id, sequence=sequence)
                if self._mailbox.take_heartbeat_request() or clock() >= next_heartbeat:
                    message.heartbeat.CopyFrom(self._heartbeat())
                    next_heartbeat = clock() + interval
                outgoing = self._mailbox.outbox.take(sequence, _ITEMS_A_MESSAGE)
                message.task_statuses.extend(outgoing.statuses)
                message.task_acks.extend(outgoing.acks)
                await call.write(message)
                await self._mailbox.wait(next_heartbeat - clock())
        except (aio.AioRpcError, asyncio.InvalidStateError):
            # The stream is over; the reader learns why.
            return

    def _heartbeat(self) -> agent_pb2.ConnectHeartbeat:
        running = self._board.step_run_ids
        # An agent that is about to stop has room for what it runs, and for nothing else.
        capacity = len(running) if self._board.is_draining else self._link.config.capacity
        is_full = len(running) >= capacity
        idle = agent_pb2.AGENT_STATUS_ONLINE if running else agent_pb2.AGENT_STATUS_IDLE
        return agent_pb2.ConnectHeartbeat(
            timestamp=int(time.time()),
            status=agent_pb2.AGENT_STATUS_BUSY if is_full else idle,
            running_step_runs_count=len(running),
            max_concurrent_step_runs=capacity,
            running_step_run_ids=running,
            workspace_job_ids=self._workspaces.job_ids,
        )

    async def _read(self, call: _Call) -> None:
        """Take messages until the stream ends or the server asks for another."""
        first = True
        while isinstance(message := await call.read(), agent_pb2.ConnectResponse):
            if first:
                first = False
                self._backoff.reset()
                _log.info("connected", agent_id=self._link.agent_id, server=self._link.config.server)
            self._take(message)
            if message.reconnect:
                _log.info("reconnect_requested")
                return

    def _take(self, message: agent_pb2.ConnectResponse) -> None:
        outbox = self._mailbox.outbox
        # Refusals before the acknowledgement that covers their message: what it leaves over is committed.
        for refusal in message.refusals:
            if report := outbox.refuse(refusal.step_run_id, refusal.status):
                self._board.refused(report, refusal.reason)
        for report in outbox.acknowledge(message.acked_sequence):
            self._board.committed(report)
        if message.HasField("task_cancel"):
            self._board.cancel(message.task_cancel.step_run_id, message.task_cancel.reason)
        for cancel in message.task_cancels:
            self._board.cancel(cancel.step_run_id, cancel.reason)
        for job_id in message.released_job_ids:
            self._workspaces.release(job_id)
        if message.HasField("task_dispatch"):
            for run in message.task_dispatch.step_runs:
                self._board.dispatch(run, run.command_id or message.command_id)
