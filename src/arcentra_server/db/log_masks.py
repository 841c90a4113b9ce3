"""Masking of logs at ingest: which step runs have secrets, their batches masked, and the seams between batches.

A step run without secrets costs a look into a set. For one with secrets the values are opened when a call of its agent
brings the first of its log, and are kept as long as the call lasts.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar
from uuid import UUID

import structlog

from arcentra_server.db import logs
from arcentra_server.db.engine import Database, Tx
from arcentra_server.db.vault import Vault
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.log_order import LogBatch, LogState
from arcentra_server.domain.masking import Masked, Matcher, cover, needles_of
from arcentra_server.domain.packing import Compression, pack, unpack

# Of those who may send the log of the step run. What it was made with is final once it has started.
_SECRETS = """
    SELECT s.secrets, s.started_at IS NOT NULL AS final, r.namespace, r.pipeline_id
      FROM step_runs s JOIN pipeline_runs r ON r.id = s.run_id
     WHERE s.id = $1 AND (s.agent_id = $2 OR EXISTS (
           SELECT 1 FROM leases l WHERE l.step_run_id = s.id AND l.agent_id = $2 AND l.end_reason IS NULL))
"""
_MOST_PLAIN = 50_000
# Masking so many bytes may take more than about a millisecond.
_COSTLY_BYTES = 1 << 15
_PAGE = 64

P = ParamSpec("P")
Result = TypeVar("Result")
_log = structlog.get_logger()


class LogMask:
    """The secrets of one step run, for the batches that one call brings. `end`: the last seq it stored, and its tail."""

    def __init__(self, matcher: Matcher) -> None:
        self.matcher = matcher
        self.end: tuple[int, bytes] = (0, b"")

    async def masked(self, batch: LogBatch) -> tuple[LogBatch, Masked]:
        """Return a batch, which was checked, masked by itself. One that does not unpack comes back empty: it is lost."""
        return await _aside(batch.raw_size, self._masked, batch)

    def _masked(self, batch: LogBatch) -> tuple[LogBatch, Masked]:
        try:
            masked = self.matcher.mask(unpack(batch.compression, batch.data, batch.raw_size))
        except ValidationError:
            # Nobody could read it, but it may hold what must not be stored.
            return replace(batch, compression=Compression.ZSTD, data=b""), Masked(None, b"", b"")
        return (batch if masked.data is None else _repacked(batch, masked.data)), masked


class LogMasks:
    """Finds the masks of step runs."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._plain: OrderedDict[UUID, None] = OrderedDict()

    async def of_step(self, step_id: UUID, agent_id: UUID) -> LogMask | None:
        """Return the mask of a step run for the agent that has or had it, None when there is nothing to mask.

        A secret that is gone, or cannot be opened, is not masked: the agent, which has got it, masks it too.
        """
        if step_id in self._plain:
            return None
        async with self._database.transaction() as tx:
            row = await tx.fetchrow(_SECRETS, step_id, agent_id)
            if row is None:
                return None
            if not row["secrets"]:
                if row["final"]:
                    self._remember(step_id)
                return None
            names = sorted(set(row["secrets"].values()))
            opened = await self._vault.values(tx, [(row["namespace"], row["pipeline_id"], name) for name in names])
        if len(opened.values) < len(names):
            unknown = sorted({*names} - {name for _, _, name in opened.values})
            _log.warning("log_not_masked", step_run_id=str(step_id), secrets=unknown)
        values = list(opened.values.values())
        return await _aside(8 * sum(map(len, values)), _mask_of, values)

    def _remember(self, step_id: UUID) -> None:
        self._plain[step_id] = None
        if len(self._plain) > _MOST_PLAIN:
            self._plain.popitem(last=False)


def _mask_of(values: Sequence[str]) -> LogMask | None:
    needles = needles_of(values)
    return LogMask(Matcher(needles)) if needles else None


async def _aside(size: int, work: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
    """Do some work on so many bytes: beside the event loop where it may hold that up."""
    return await asyncio.to_thread(work, *args, **kwargs) if size >= _COSTLY_BYTES else work(*args, **kwargs)


@dataclass(frozen=True, slots=True, repr=False)
class Joined:
    """A masked batch at its place. `end`: for its mask to remember, once it is committed."""

    batch: LogBatch
    state: LogState
    end: tuple[int, bytes]


async def join(
    tx: Tx,
    mask: LogMask,
    end: tuple[int, bytes] | None,
    before: LogState,
    after: LogState,
    batch: LogBatch,
    masked: Masked,
) -> Joined:
    """Mask the seam between a batch and what is stored before it, on both sides.

    Args:
        tx: The transaction, in which the log is locked and everything before the batch is written.
        mask: The secrets.
        end: The end of what is stored, if this transaction stored it.
        before: The log without the batch.
        after: The log with it; a loss in front of it shows as a start that is larger than the size before.
        batch: The batch, masked by itself.
        masked: Its ends as they were.
    """
    start = after.size - batch.raw_size
    tail = b""
    if start == before.size:
        known = [raw for seq, raw in (end or (0, b""), mask.end) if seq == before.last_seq]
        tail = known[0] if known else await _stored_tail(tx, batch.step_id, before.size, mask.matcher.reach)
    grown = 0
    reach = min(mask.matcher.reach, len(tail) + batch.raw_size)
    if across := await _aside(reach, mask.matcher.seam, tail, masked.head):
        grown = await _cover_stored(tx, batch.step_id, start + across[0], start) - len(batch.data)
        raw = unpack(batch.compression, batch.data, batch.raw_size)
        batch = _repacked(batch, cover(raw, [(0, across[1])]))
        grown += len(batch.data)
    tail = mask.matcher.joined(tail, masked.tail)
    held = await _aside(reach, mask.matcher.open_end, tail)
    return Joined(batch, replace(after, stored_bytes=after.stored_bytes + grown, held=held), (batch.seq, tail))


async def _stored_tail(tx: Tx, step_id: UUID, size: int, wanted: int) -> bytes:
    """Return the last bytes of a log as they are stored, which is masked; fewer when some before them are lost."""
    tail, at = b"", 0
    async for chunk in _chunks(tx, step_id, max(0, size - wanted), size):
        if chunk.start != at:
            tail = b""
        raw = _unpacked(chunk)
        tail = b"" if raw is None else (tail + raw)[-wanted:]
        at = chunk.start + chunk.raw_size
    return tail


async def _cover_stored(tx: Tx, step_id: UUID, start: int, end: int) -> int:
    """Mask a part of a log in the chunks that hold it; return by how many bytes they grew."""
    grown = 0
    async for chunk in _chunks(tx, step_id, start, end):
        raw = _unpacked(chunk)
        if raw:
            data = pack(cover(raw, [(max(0, start - chunk.start), min(end - chunk.start, len(raw)))]))
            await logs.replace_chunk(tx, step_id, chunk.seq, Compression.ZSTD, data)
            grown += len(data) - len(chunk.data)
    return grown


async def _chunks(tx: Tx, step_id: UUID, start: int, end: int) -> AsyncIterator[logs.LogChunk]:
    """Yield the stored chunks that hold the bytes from one to another."""
    seq = await logs.seq_before(tx, step_id, start)
    while page := await logs.chunks_after(tx, step_id, seq, _PAGE):
        for chunk in page:
            if chunk.start >= end:
                return
            yield chunk
            seq = chunk.seq


def _unpacked(chunk: logs.LogChunk) -> bytes | None:
    try:
        return unpack(chunk.compression, chunk.data, chunk.raw_size)
    except ValidationError:
        return None


def _repacked(batch: LogBatch, raw: bytes) -> LogBatch:
    return replace(batch, compression=Compression.ZSTD, data=pack(raw))
