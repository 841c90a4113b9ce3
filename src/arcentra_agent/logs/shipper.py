"""Sends what is new in the logs of all running steps to the server, and knows when all of a log is stored."""

import asyncio
import contextlib
import errno
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc
import structlog
from grpc import aio

from arcentra_agent.channel import Backoff
from arcentra_agent.link import Link
from arcentra_agent.logs.cursor import Chunk, LogCursor
from arcentra_agent.logs.journal import CursorJournal
from arcentra_agent.logs.log_file import LogFile
from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.gateway.v1 import gateway_pb2, gateway_pb2_grpc

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Output waits this long for more before it is sent; the promise is 1 s.
_POLL = 0.25
_CALL_TIMEOUT = 60.0
_CHUNKS_A_CALL = 64
_LEVEL = 3
# Answers about what was sent, not about the connection: the same call would get the same answer.
_PERMANENT = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)
_log = structlog.get_logger("arcentra_agent")


@dataclass(slots=True, eq=False)
class StepLog:
    """The log of one step run: where it is on disk and how far the server has it."""

    step_run_id: str
    pipeline_id: str
    file: LogFile
    journal: CursorJournal
    cursor: LogCursor
    on_given_up: Callable[[], None] = lambda: None
    has_ended: bool = False
    is_given_up: bool = False
    shipped: asyncio.Event = field(default_factory=asyncio.Event)

    def note_shipped(self) -> None:
        """Tell who waits, once the log has ended and needs nothing more."""
        if self.has_ended and self.cursor.is_settled(self.file.size):
            self.shipped.set()


Sending = list[tuple[StepLog, list[Chunk]]]


class LogShipper:
    """One call at a time, with batches of many logs; what is not acknowledged is sent again as it was."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._logs: deque[StepLog] = deque()
        self._wake = asyncio.Event()
        self._backoff = Backoff(longest=5.0)
        self._budget = _CHUNKS_A_CALL
        self._one_by_one = 0

    def open(
        self,
        run: agent_pb2.StepRun,
        file: LogFile,
        journal: CursorJournal,
        on_given_up: Callable[[], None] = lambda: None,
    ) -> StepLog:
        """Ship this file from now on, until `drop`, from where its journal says that it was shipped to.

        `on_given_up` is called when nothing more of it is sent although it goes on: once, which may be here.
        """
        log = StepLog(run.step_run_id, run.pipeline_id, file, journal, journal.restore(), on_given_up)
        self._logs.append(log)
        self._note(log)
        self._wake.set()
        return log

    def end(self, log: StepLog, size: int) -> None:
        """Note that the log has so many bytes; `log.shipped` is set when the server needs nothing more of it."""
        log.file.end(size)
        log.has_ended = True
        log.note_shipped()
        self._wake.set()

    def drop(self, log: StepLog) -> None:
        """Forget the log, shipped or not."""
        with contextlib.suppress(ValueError):
            self._logs.remove(log)

    async def run(self) -> None:
        """Ship until cancelled."""
        while True:
            sending = self._next()
            if not sending:
                await self._wait_for_output()
                continue
            try:
                ack, was_read = await self._push(sending)
            except aio.AioRpcError as error:
                await self._failed(sending, error)
            except RuntimeError as error:
                # No thread can be started to read a file; a step may have too many of them.
                _log.warning("logs_wait", reason=str(error))
                await asyncio.sleep(self._backoff.next())
            else:
                await self._answered(sending, ack, was_read=was_read)

    def _next(self) -> Sending:
        """Choose what goes into the next call: some of each log that has anything, starting with another one each time."""
        if not self._link.has_joined:
            return []
        self._logs.rotate(-1)
        ready = [log for log in self._logs if log.cursor.has_unsent(log.file.size)]
        if self._one_by_one and ready:
            ready = ready[:1]
        share = max(1, self._budget // max(1, len(ready)))
        return [(log, _next_chunks(log, share)) for log in ready[: self._budget]]

    async def _wait_for_output(self) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_POLL if self._logs else None):
                await self._wake.wait()

    async def _push(self, sending: Sending) -> tuple[gateway_pb2.IngestAck, bool]:
        """Send the chunks in one call; return the answer and whether the server read all of them before it answered."""
        stub = gateway_pb2_grpc.GatewayServiceStub(self._link.channel)
        call = stub.PushLogs(metadata=self._link.metadata, timeout=_CALL_TIMEOUT)
        was_read = False
        try:
            # Writing fails when the server has answered before the last batch.
            with contextlib.suppress(asyncio.InvalidStateError, aio.InternalError):
                handshake = gateway_pb2.AgentHandshake(agent_id=self._link.agent_id)
                await call.write(gateway_pb2.PushLogsRequest(handshake=handshake))
                for log, chunks in sending:
                    async for batch in self._batches(log, chunks):
                        await call.write(gateway_pb2.PushLogsRequest(batch=batch))
                await call.done_writing()
                was_read = True
            response: gateway_pb2.PushLogsResponse = await call
            return response.ack, was_read
        finally:
            call.cancel()

    async def _batches(self, log: StepLog, chunks: list[Chunk]) -> AsyncIterator[gateway_pb2.LogBatch]:
        """Read and compress chunk by chunk, so that memory holds one at a time."""
        for chunk in chunks:
            try:
                data = await asyncio.to_thread(_read_compressed, log.file, chunk)
            except OSError as error:
                # Somebody removed or truncated the file. The rest of the log is lost, the outcome need not be.
                log.cursor.give_up(f"the log file cannot be read: {error}")
                return
            yield self._batch(log, chunk, data)

    def _batch(self, log: StepLog, chunk: Chunk, data: bytes) -> gateway_pb2.LogBatch:
        batch = gateway_pb2.LogBatch(
            # The same for the same bytes whenever they are sent, so that the server can tell a repetition.
            batch_id=f"{log.step_run_id}-{chunk.seq}",
            meta=gateway_pb2.Meta(
                agent_id=self._link.agent_id, pipeline_id=log.pipeline_id, step_id=log.step_run_id, seq=chunk.seq
            ),
            compression=gateway_pb2.LogBatch.COMPRESSION_ZSTD,
            data=data,
            raw_size=chunk.size,
            offset=chunk.offset,
        )
        batch.meta.timestamp.GetCurrentTime()
        return batch

    async def _answered(self, sending: Sending, ack: gateway_pb2.IngestAck, *, was_read: bool) -> None:
        """Take the answer: what it does not name is stored, if the server saw it and did not refuse the whole call."""
        named = {(rejection.step_id, rejection.seq): rejection.reason for rejection in ack.rejections}
        taken = ack.status in (gateway_pb2.IngestAck.STATUS_ACCEPTED, gateway_pb2.IngestAck.STATUS_PARTIAL_ACCEPTED)
        progressed = False
        for log, chunks in sending:
            before = log.cursor.stored_bytes
            refused = {seq: reason for (step_id, seq), reason in named.items() if step_id == log.step_run_id}
            is_answer = was_read and (taken or named)
            log.cursor.settle([chunk for chunk in chunks if is_answer or chunk.seq in refused], refused)
            log.journal.keep(log.cursor)
            progressed = progressed or log.cursor.stored_bytes > before or bool(log.cursor.given_up)
            self._note(log)
        self._one_by_one = max(0, self._one_by_one - 1)
        if progressed:
            self._backoff.reset()
            self._budget = min(_CHUNKS_A_CALL, self._budget * 2)
        else:
            _log.warning("logs_not_taken", status=ack.status, reason=ack.message)
            await asyncio.sleep(self._backoff.next())

    async def _failed(self, sending: Sending, error: aio.AioRpcError) -> None:
        for log, _ in sending:
            # It may have been given up before the call failed, when its file could not be read.
            self._note(log)
        if error.code() in _PERMANENT:
            # One bad log must not hold the others up: each is tried alone, and the one that fails alone is given up.
            if len(sending) == 1:
                log = sending[0][0]
                log.cursor.give_up(error.code().name)
                self._note(log)
                self._one_by_one = max(0, self._one_by_one - 1)
            else:
                self._one_by_one = len(sending)
            return
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._budget = max(1, self._budget // 2)
        _log.info("logs_wait", code=error.code().name, reason=error.details())
        await asyncio.sleep(self._backoff.next())

    def _note(self, log: StepLog) -> None:
        if log.cursor.given_up and not log.is_given_up:
            log.is_given_up = True
            _log.warning("log_given_up", step_run_id=log.step_run_id, reason=log.cursor.given_up)
            log.journal.keep(log.cursor)
            if not log.has_ended:
                log.on_given_up()
        log.note_shipped()


def _next_chunks(log: StepLog, limit: int) -> list[Chunk]:
    """Return what is to be sent of a log, once it is written down how it was cut."""
    chunks = log.cursor.next_chunks(log.file.size, limit)
    log.journal.keep(log.cursor)
    return chunks


def _read_compressed(file: LogFile, chunk: Chunk) -> bytes:
    descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(descriptor, chunk.size, chunk.offset)
        if len(data) != chunk.size:
            raise OSError(errno.EIO, "the file is shorter than what was written", str(file.path))
        return zstd.compress(data, level=_LEVEL)
    finally:
        os.close(descriptor)
