"""Logs: batches in from agents, bytes out to readers, who are told at once of what this process stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

from arcentra_server.db import logs
from arcentra_server.db.batcher import Batcher
from arcentra_server.db.engine import Database
from arcentra_server.db.inflight import InFlight
from arcentra_server.domain.errors import NotFound, Unavailable, ValidationError
from arcentra_server.domain.ingest import IngestResult, Item, Reason, Tally, Verdict
from arcentra_server.domain.log_order import LARGEST_OFFSET, LOG_LIMIT, LogBatch, LogPiece, LogView, place
from arcentra_server.domain.packing import check_packed, is_costly, unpack

_COMMIT_BATCHES = 128
_READ_CHUNKS = 8
_PIECE_BYTES = 256 * 1024
# Another process may store, and end, what is followed here.
_POLL_SECONDS = 1.0


@dataclass(slots=True)
class _Place:
    """Where a reader is: everything up to chunk `seq`, and all bytes before `offset`, is behind it."""

    seq: int
    offset: int


class LogService:
    """See the module. `run` must be running for `append` to resolve.

    Args:
        database: Where logs are kept.
        limit: Bytes of content of one log; what comes after that is refused.
    """

    def __init__(self, database: Database, *, limit: int = LOG_LIMIT) -> None:
        self._database = database
        self._limit = limit
        self._batcher: Batcher[tuple[UUID, LogBatch], Verdict] = Batcher(self._commit, largest=_COMMIT_BATCHES)
        self._followers: dict[UUID, set[asyncio.Event]] = {}
        self._ending = False

    async def run(self) -> None:
        """Commit what is handed in until `close`."""
        await self._batcher.run()

    def close(self) -> None:
        """Take nothing more; `run` returns when it has committed the rest."""
        self._batcher.close()

    def end_followers(self) -> None:
        """End the streams of those who follow: the server stops."""
        self._ending = True
        self.wake(list(self._followers))

    def wake(self, step_ids: Iterable[UUID]) -> None:
        """Let followers of these step runs look now. A hint: they look by themselves every second."""
        for step_id in step_ids:
            for arrived in self._followers.get(step_id, ()):
                arrived.set()

    async def append(self, agent_id: UUID, batches: AsyncIterator[LogBatch]) -> IngestResult:
        """Store batches of an agent as they come; return what became of them once all of it is committed.

        Raises:
            ValidationError: a batch is not what it says; what came before it is stored.
        """
        tally = Tally()
        step_id = None
        async with InFlight(tally.add) as inflight:
            async for batch in batches:
                if is_costly(batch.compression, batch.data, batch.raw_size):
                    await asyncio.to_thread(check_packed, batch.compression, batch.data, batch.raw_size)
                else:
                    check_packed(batch.compression, batch.data, batch.raw_size)
                step_id = batch.step_id
                await inflight.add(self._batcher.submit((agent_id, batch)), len(batch.data))
        return tally.result(await self._last_seq(step_id) if step_id else 0)

    async def read(self, step_id: UUID, offset: int, max_bytes: int) -> list[LogPiece]:
        """Return what is stored from a byte on, at most `max_bytes` of content.

        Raises:
            NotFound: no such step run.
            ValidationError: the offset is larger than any log.
        """
        pieces: list[LogPiece] = []
        room = max_bytes
        async with aclosing(self.follow(step_id, offset, follow=False)) as stored:
            async for piece in stored:
                if room <= 0:
                    break
                pieces.append(LogPiece(piece.offset, piece.data[:room], piece.lost))
                room -= len(piece.data)
        return pieces

    async def follow(self, step_id: UUID, offset: int, *, follow: bool) -> AsyncGenerator[LogPiece, None]:
        """Yield a log from a byte on, in pieces of at most 256 KiB.

        Args:
            step_id: Whose log.
            offset: The first byte wanted.
            follow: Wait for what is not stored yet, until the step run has ended and its log is complete.

        Raises:
            NotFound: no such step run.
            ValidationError: the offset is larger than any log.
            Unavailable: the server stops.
        """
        if offset > LARGEST_OFFSET:
            raise ValidationError.at("offset", "is larger than any log")
        async with self._database.transaction() as tx:
            reader = _Place(await logs.seq_before(tx, step_id, offset), offset)
        with self._watch(step_id) as arrived:
            while True:
                arrived.clear()
                # The view comes first: everything that it counts is then found by the read that follows.
                view = await self._view(step_id)
                async for piece in self._stored(step_id, reader):
                    yield piece
                if not follow or view.complete:
                    break
                if self._ending:
                    raise Unavailable("the server is stopping")
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_SECONDS):
                        await arrived.wait()
        if lost := view.missing_after(reader.offset):
            yield LogPiece(reader.offset, b"", lost)

    @contextmanager
    def _watch(self, step_id: UUID) -> Iterator[asyncio.Event]:
        arrived = asyncio.Event()
        watching = self._followers.setdefault(step_id, set())
        watching.add(arrived)
        try:
            yield arrived
        finally:
            watching.discard(arrived)
            if not watching and self._followers.get(step_id) is watching:
                del self._followers[step_id]

    async def _view(self, step_id: UUID) -> LogView:
        async with self._database.transaction() as tx:
            view = await logs.view(tx, step_id)
        if view is None:
            raise NotFound(f"step run {step_id} not found")
        return view

    async def _last_seq(self, step_id: UUID) -> int:
        async with self._database.transaction() as tx:
            return await logs.last_seq(tx, step_id)

    async def _stored(self, step_id: UUID, reader: _Place) -> AsyncIterator[LogPiece]:
        while True:
            async with self._database.transaction() as tx:
                chunks = await logs.chunks_after(tx, step_id, reader.seq, _READ_CHUNKS)
            for chunk in chunks:
                for piece in await _unpacked(chunk, reader.offset):
                    yield piece
                    reader.offset = piece.offset + len(piece.data) + piece.lost
                reader.seq = chunk.seq
            if len(chunks) < _READ_CHUNKS:
                return

    async def _commit(self, items: Sequence[tuple[UUID, LogBatch]]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        chunks: list[tuple[int, LogBatch]] = []
        changed = {}
        async with self._database.transaction() as tx:
            held = await logs.holders(tx, {batch.step_id for _, batch in items})
            states = await logs.lock_states(tx, {b.step_id for agent, b in items if (b.step_id, agent) in held})
            for agent_id, batch in items:
                item = Item(batch.seq, step_id=str(batch.step_id))
                if (batch.step_id, agent_id) not in held:
                    verdicts.append(Verdict(item, Reason.NOT_LEASED))
                    continue
                placed = place(states[batch.step_id], batch, self._limit)
                if placed.start is not None:
                    chunks.append((placed.start, batch))
                if placed.state is not states[batch.step_id]:
                    states[batch.step_id] = changed[batch.step_id] = placed.state
                verdicts.append(Verdict(item, placed.reason, placed.lost))
            await logs.store(tx, chunks, changed)
        self.wake(changed)
        return verdicts


async def _unpacked(chunk: logs.LogChunk, offset: int) -> list[LogPiece]:
    """Return the pieces of a chunk from a byte on, with the gap before it; content that does not unpack is lost."""
    pieces = []
    if chunk.start > offset:
        pieces.append(LogPiece(offset, b"", chunk.start - offset))
        offset = chunk.start
    try:
        if is_costly(chunk.compression, chunk.data, chunk.raw_size):
            raw = await asyncio.to_thread(unpack, chunk.compression, chunk.data, chunk.raw_size)
        else:
            raw = unpack(chunk.compression, chunk.data, chunk.raw_size)
    except ValidationError:
        lost = chunk.start + chunk.raw_size - offset
        return [*pieces, LogPiece(offset, b"", lost)] if lost else pieces
    starts = range(offset - chunk.start, len(raw), _PIECE_BYTES)
    return pieces + [LogPiece(chunk.start + start, raw[start : start + _PIECE_BYTES]) for start in starts]
