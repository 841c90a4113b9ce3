"""The stream of commands: held open for as long as the agent lives, opened again whenever it breaks."""

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass

import grpc
import structlog
from grpc import aio

from arcentra_agent.admission import Admission
from arcentra_agent.channel import Backoff
from arcentra_agent.contact import Contact
from arcentra_agent.link import Link
from arcentra_agent.load import Load
from arcentra_agent.mailbox import Mailbox
from arcentra_agent.one_job import OneJob
from arcentra_agent.step_host.boot_clock import boottime
from arcentra_agent.steps import StepBoard
from arcentra_agent.trash import Trash
from arcentra_agent.workspaces import Workspaces
from arcentra_api.agent.v1 import agent_pb2

_CONNECT_TIMEOUT = 10.0
_ITEMS_A_MESSAGE = 256
_ANOTHER_JOB = "the agent takes one job, and has it"
# What the client library says of a stream that the server ended while a message was on its way to it: the server's own
# reason is lost, and comes with the next stream.
_REASON_LOST = "Internal error from Core"
_log = structlog.get_logger("arcentra_agent")

_Call = aio.StreamStreamCall[agent_pb2.ConnectRequest, agent_pb2.ConnectResponse]


@dataclass(frozen=True, slots=True)
class Desk:
    """What the stream is about. Without `one_job` the agent takes as many as come."""

    mailbox: Mailbox
    board: StepBoard
    workspaces: Workspaces
    contact: Contact
    load: Load
    trash: Trash
    one_job: OneJob | None = None


class Session:
    """One writer sends everything pending in one message; one reader hands what comes to the board."""

    def __init__(self, link: Link, desk: Desk) -> None:
        self._link = link
        self._mailbox = desk.mailbox
        self._board = desk.board
        self._workspaces = desk.workspaces
        self._contact = desk.contact
        self._load = desk.load
        self._trash = desk.trash
        self._one_job = desk.one_job
        self._admission = Admission(link, desk.board, desk.contact, desk.load)
        self._backoff = Backoff()
        self._interval = 0.0
        self._settings = agent_pb2.AgentSettings()
        self._rotation_asked = asyncio.Event()
        # Heartbeats of this stream that are not answered: message number and boot time of sending.
        self._beats: deque[tuple[int, float]] = deque()

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            JoinRefusedError, CredentialError: when the server does not want this agent (any more).
            OSError: when the credential cannot be stored.
        """
        while True:
            await self._link.ensure_joined()
            try:
                await self._be_there()
            except aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    self._link.distrust()
                if error.details() == _REASON_LOST:
                    _log.info("stream_ended", reason="not known, it crossed a message; trying again")
                else:
                    _log.warning("disconnected", code=error.code().name, reason=error.details())
            except TimeoutError:
                _log.warning("server_unreachable", server=self._link.config.server)
            finally:
                self._contact.is_connected = False
                self._mailbox.outbox.rewind()
            await asyncio.sleep(self._backoff.next())

    async def _be_there(self) -> None:
        """Hold the stream, or wait until the server lets this agent have one."""
        if self._link.membership.is_pending:
            await self._admission.wait("the agent is new")
            self._link.distrust()
            return
        try:
            await self._hold_stream()
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            await self._admission.wait(error.details() or "")
            # Registering tells whether it is approved.
            self._link.distrust()

    async def _hold_stream(self) -> None:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            await self._link.channel.channel_ready()
        call = self._link.stub.Connect(metadata=self._link.metadata)
        self._begin_stream()
        ended: aio.AioRpcError | None = None
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(self._write(call), name="session-writer")
            rotation = tasks.create_task(self._rotate(call), name="credential-rotation")
            try:
                await self._read(call)
            except aio.AioRpcError as error:
                # Kept and raised below: a task group would wrap it.
                ended = error
            finally:
                rotation.cancel()
                writer.cancel()
                call.cancel()
        if ended is not None:
            raise ended

    def _begin_stream(self) -> None:
        membership = self._link.membership
        self._interval = self._contact.heartbeat_interval = membership.heartbeat_interval
        if membership.lease_duration:
            self._board.lease_lasts(membership.lease_duration)
        self._rotation_asked.clear()
        self._beats.clear()

    async def _rotate(self, call: _Call) -> None:
        """Have a new credential when it is time for one; go on with it on a stream of its own."""
        async with asyncio.TaskGroup() as tasks:
            waits = [
                tasks.create_task(self._rotation_asked.wait(), name="rotation-asked"),
                tasks.create_task(self._link.credential_aged(), name="credential-aged"),
            ]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        backoff = Backoff(first=1.0, longest=60.0)
        while True:
            try:
                await self._link.rotate_credential()
                break
            except aio.AioRpcError as error:
                _log.warning("credential_not_rotated", code=error.code().name, reason=error.details())
            except (OSError, RuntimeError) as error:
                _log.warning("credential_not_rotated", reason=str(error))
            await asyncio.sleep(backoff.next())
        # A stream that is over has been ended for its own reasons, which the reader learns.
        with contextlib.suppress(asyncio.InvalidStateError, aio.InternalError):
            await call.done_writing()

    async def _write(self, call: _Call) -> None:
        clock = asyncio.get_running_loop().time
        sequence, beaten_at = 0, -float("inf")
        try:
            while True:
                sequence += 1
                message = agent_pb2.ConnectRequest(agent_id=self._link.agent_id, sequence=sequence)
                if self._mailbox.take_heartbeat_request() or clock() >= beaten_at + self._interval:
                    message.heartbeat.CopyFrom(self._heartbeat())
                    self._beats.append((sequence, boottime()))
                    beaten_at = clock()
                outgoing = self._mailbox.outbox.take(sequence, _ITEMS_A_MESSAGE)
                message.task_statuses.extend(outgoing.statuses)
                message.task_acks.extend(outgoing.acks)
                await call.write(message)
                await self._mailbox.wait(beaten_at + self._interval - clock())
        except (aio.AioRpcError, aio.InternalError, asyncio.InvalidStateError):
            # The stream is over; the reader learns why.
            return

    def _heartbeat(self) -> agent_pb2.ConnectHeartbeat:
        running = self._board.step_run_ids
        draining = self._board.is_draining or (self._one_job is not None and self._one_job.is_taken)
        # An agent that is about to end has room for what it runs, and for nothing else.
        capacity = len(running) if self._board.is_closed else self._link.config.capacity
        return agent_pb2.ConnectHeartbeat(
            timestamp=int(time.time()),
            status=_status(len(running), capacity, draining=draining),
            running_step_runs_count=len(running),
            max_concurrent_step_runs=capacity,
            running_step_run_ids=running,
            workspace_job_ids=self._workspaces.job_ids,
            metrics={**self._load.take(), "running_step_runs": str(len(running))},
            draining=draining,
        )

    async def _read(self, call: _Call) -> None:
        """Take messages until the stream ends or the server asks for another."""
        while isinstance(message := await call.read(), agent_pb2.ConnectResponse):
            self._contact.note()
            if not self._contact.is_connected:
                self._contact.is_connected = True
                self._admission.granted()
                self._trash.begin()
                self._backoff.reset()
                _log.info("connected", agent_id=self._link.agent_id, server=self._link.config.server)
            self._take(message)
            if message.reconnect:
                _log.info("reconnect_requested")
                return

    def _take(self, message: agent_pb2.ConnectResponse) -> None:
        if message.HasField("settings"):
            self._take_settings(message.settings)
        self._renew_leases(message)
        self._take_answers(message)
        if message.HasField("task_cancel"):
            self._board.cancel(message.task_cancel.step_run_id, message.task_cancel.reason)
        for cancel in message.task_cancels:
            self._board.cancel(cancel.step_run_id, cancel.reason)
        for job_id in message.released_job_ids:
            self._workspaces.release(job_id)
        if message.HasField("task_dispatch"):
            for run in message.task_dispatch.step_runs:
                self._dispatch(run, run.command_id or message.command_id)
        if self._one_job is not None:
            self._one_job.released(message.released_job_ids)

    def _take_answers(self, message: agent_pb2.ConnectResponse) -> None:
        outbox = self._mailbox.outbox
        # Refusals before the acknowledgement that covers their message: what it leaves over is committed.
        for refusal in message.refusals:
            if report := outbox.refuse(refusal.step_run_id, refusal.status):
                self._board.refused(report, refusal.reason)
                if self._one_job is not None:
                    self._one_job.refused(report)
        for report in outbox.acknowledge(message.acked_sequence):
            self._board.committed(report)
            if self._one_job is not None:
                self._one_job.committed(report)

    def _dispatch(self, run: agent_pb2.StepRun, command_id: str) -> None:
        if self._one_job is None:
            self._board.dispatch(run, command_id)
            return
        was_taken = self._one_job.is_taken
        if self._one_job.takes(run):
            self._board.dispatch(run, command_id)
        else:
            refusal = agent_pb2.TaskAck(command_id=command_id, status=agent_pb2.ACK_STATUS_FAILED, message=_ANOTHER_JOB)
            self._mailbox.put(refusal)
        if not was_taken:
            # At once: nothing but the rest of this job is wanted now.
            self._mailbox.ask_for_heartbeat()

    def _take_settings(self, settings: agent_pb2.AgentSettings) -> None:
        """Do as the server wants from now on."""
        if settings.heartbeat_interval > 0 and settings.heartbeat_interval / 1000 != self._interval:
            self._interval = self._contact.heartbeat_interval = settings.heartbeat_interval / 1000
            # The next one may be due sooner than the writer thinks.
            self._mailbox.ask_for_heartbeat()
        if settings.lease_duration > 0:
            self._board.lease_lasts(settings.lease_duration / 1000)
        if settings.drain != self._settings.drain:
            told = _log.warning if settings.drain else _log.info
            told("drained_by_the_server" if settings.drain else "resumed_by_the_server", reason=settings.drain_reason)
        if settings.rotate_credential:
            self._rotation_asked.set()
        self._settings = settings

    def _renew_leases(self, message: agent_pb2.ConnectResponse) -> None:
        """Take note of which heartbeats are answered."""
        while self._beats and self._beats[0][0] <= message.acked_sequence:
            self._board.lease_renewed(self._beats.popleft()[1])


def _status(running: int, capacity: int, *, draining: bool) -> agent_pb2.AgentStatus.ValueType:
    if draining:
        return agent_pb2.AGENT_STATUS_DRAINING
    if running >= capacity:
        return agent_pb2.AGENT_STATUS_BUSY
    return agent_pb2.AGENT_STATUS_ONLINE if running else agent_pb2.AGENT_STATUS_IDLE
