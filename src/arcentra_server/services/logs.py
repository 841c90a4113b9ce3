"""Logs: batches in from agents, bytes out to readers, who are told at once of what this process stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import logs
from arcentra_server.db.batcher import Batcher
from arcentra_server.db.engine import Database, Tx
from arcentra_server.db.inflight import InFlight
from arcentra_server.db.log_masks import LogMask, LogMasks, join
from arcentra_server.db.vault import Vault
from arcentra_server.domain.errors import NotFound, Unavailable, ValidationError
from arcentra_server.domain.ingest import IngestResult, Item, Reason, Tally, Verdict
from arcentra_server.domain.log_order import LARGEST_OFFSET, LOG_LIMIT, LogBatch, LogPiece, LogState, LogView, place
from arcentra_server.domain.masking import Masked
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


@dataclass(frozen=True, slots=True, repr=False)
class _Incoming:
    """A batch of an agent; `mask` and `masked` where there is something to mask."""

    agent_id: UUID
    batch: LogBatch
    mask: LogMask | None = None
    masked: Masked | None = None


class LogService:
    """See the module. `run` must be running for `append` to resolve.

    Args:
        database: Where logs are kept.
        vault: The secrets that are masked in them.
        limit: Bytes of content of one log; what comes after that is refused.
    """

    def __init__(self, database: Database, vault: Vault, *, limit: int = LOG_LIMIT) -> None:
        self._database = database
        self._masks = LogMasks(database, vault)
        self._limit = limit
        self._batcher: Batcher[_Incoming, Verdict] = Batcher(self._commit, largest=_COMMIT_BATCHES)
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
        masks: dict[UUID, LogMask] = {}
        async with InFlight(tally.add) as inflight:
            async for batch in batches:
                if is_costly(batch.compression, batch.data, batch.raw_size):
                    await asyncio.to_thread(check_packed, batch.compression, batch.data, batch.raw_size)
                else:
                    check_packed(batch.compression, batch.data, batch.raw_size)
                step_id = batch.step_id
                incoming = await self._masked(agent_id, batch, masks)
                await inflight.add(self._batcher.submit(incoming), len(batch.data))
        crashpoint("log.before_ack")
        return tally.result(await self._last_seq(step_id) if step_id else 0)

    async def _masked(self, agent_id: UUID, batch: LogBatch, masks: dict[UUID, LogMask]) -> _Incoming:
        mask = masks.get(batch.step_id) or await self._masks.of_step(batch.step_id, agent_id)
        if mask is None:
            return _Incoming(agent_id, batch)
        masks[batch.step_id] = mask
        masked_batch, masked = await mask.masked(batch)
        return _Incoming(agent_id, masked_batch, mask, masked)

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
                async for piece in self._stored(step_id, reader, view.shown):
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

    async def _stored(self, step_id: UUID, reader: _Place, end: int) -> AsyncIterator[LogPiece]:
        """Yield what is stored up to a byte, and move the reader behind it."""
        while True:
            async with self._database.transaction() as tx:
                chunks = await logs.chunks_after(tx, step_id, reader.seq, _READ_CHUNKS)
            for chunk in chunks:
                goes_on = chunk.start + chunk.raw_size > end
                if goes_on and chunk.start >= end:
                    return
                for piece in await _unpacked(chunk, reader.offset, end):
                    yield piece
                    reader.offset = piece.offset + len(piece.data) + piece.lost
                if goes_on:
                    return
                reader.seq = chunk.seq
            if len(chunks) < _READ_CHUNKS:
                return

    async def _commit(self, items: Sequence[_Incoming]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        async with self._database.transaction() as tx:
            held = await logs.holders(tx, {item.batch.step_id for item in items})
            own = [item for item in items if (item.batch.step_id, item.agent_id) in held]
            commit = _Commit(tx, await logs.lock_states(tx, {item.batch.step_id for item in own}), self._limit)
            for item in items:
                if (item.batch.step_id, item.agent_id) in held:
                    verdicts.append(await commit.take(item))
                else:
                    verdicts.append(Verdict(_named(item.batch), Reason.NOT_LEASED))
            await logs.store(tx, commit.chunks, commit.changed)
            crashpoint("log.before_commit")
        crashpoint("log.after_commit")
        for mask, end in commit.ends:
            mask.end = end
        self.wake(commit.changed)
        return verdicts


class _Commit:
    """What one transaction stores: chunks and states, and the ends of masked logs."""

    def __init__(self, tx: Tx, states: dict[UUID, LogState], limit: int) -> None:
        self._tx = tx
        self._states = states
        self._limit = limit
        self._ends: dict[UUID, tuple[int, bytes]] = {}
        self.chunks: list[tuple[int, LogBatch]] = []
        self.changed: dict[UUID, LogState] = {}
        self.ends: list[tuple[LogMask, tuple[int, bytes]]] = []

    async def take(self, item: _Incoming) -> Verdict:
        """Decide on a batch of the agent that has the step run."""
        batch = item.batch
        before = self._states[batch.step_id]
        placed = place(before, batch, self._limit)
        after = placed.state
        if placed.start is not None:
            if item.mask is not None and item.masked is not None:
                batch, after = await self._join(item.mask, item.masked, batch, before, after)
            self.chunks.append((placed.start, batch))
        if after is not before:
            self._states[batch.step_id] = self.changed[batch.step_id] = after
        return Verdict(_named(batch), placed.reason, placed.lost)

    async def _join(
        self, mask: LogMask, masked: Masked, batch: LogBatch, before: LogState, after: LogState
    ) -> tuple[LogBatch, LogState]:
        # What comes before has to be where it can be changed.
        await logs.store(self._tx, self.chunks, {})
        self.chunks.clear()
        joined = await join(self._tx, mask, self._ends.get(batch.step_id), before, after, batch, masked)
        self._ends[batch.step_id] = joined.end
        self.ends.append((mask, joined.end))
        return joined.batch, joined.state


def _named(batch: LogBatch) -> Item:
    return Item(batch.seq, step_id=str(batch.step_id))


async def _unpacked(chunk: logs.LogChunk, offset: int, end: int) -> list[LogPiece]:
    """Return the pieces of a chunk from one byte to another, with the gap before it; what does not unpack is lost."""
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
        lost = min(chunk.start + chunk.raw_size, end) - offset
        return [*pieces, LogPiece(offset, b"", lost)] if lost > 0 else pieces
    raw = raw[: end - chunk.start]
    starts = range(offset - chunk.start, len(raw), _PIECE_BYTES)
    return pieces + [LogPiece(chunk.start + start, raw[start : start + _PIECE_BYTES]) for start in starts]
