"""Logs: chunks as they came, and for each step run how far they go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db.engine import Tx
from arcentra_server.domain.log_order import LogBatch, LogState, LogView
from arcentra_server.domain.packing import Compression

# Who runs a step run or ran it: nobody else has output of it. An agent that lost its lease before it started has none.
_HOLDERS = """
    SELECT s.id, s.agent_id,
           (SELECT l.agent_id FROM leases l WHERE l.step_run_id = s.id AND l.end_reason IS NULL) AS leased_to
      FROM step_runs s WHERE s.id = ANY($1)
"""
# Rows are locked in the order of ids by everyone.
_LOCK = """
    SELECT step_run_id, last_seq, size, stored_bytes, lost_bytes, truncated, held
      FROM step_logs WHERE step_run_id = ANY($1) ORDER BY step_run_id FOR NO KEY UPDATE
"""
_CREATE = "INSERT INTO step_logs (step_run_id) SELECT * FROM unnest($1::uuid[]) ON CONFLICT DO NOTHING"
_INSERT = """
    INSERT INTO log_chunks (step_run_id, seq, start_offset, raw_size, compression, data)
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::int[], $5::smallint[], $6::bytea[])
"""
_UPDATE = """
    UPDATE step_logs g
       SET last_seq = c.last_seq, size = c.size, stored_bytes = c.stored, lost_bytes = c.lost, truncated = c.truncated,
           held = c.held, updated_at = clock_timestamp()
      FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bool[], $7::int[])
           AS c(id, last_seq, size, stored, lost, truncated, held)
     WHERE g.step_run_id = c.id
"""
_VIEW = """
    SELECT s.finished_at IS NOT NULL AS ended, s.log_size, coalesce(g.size, 0) AS size,
           coalesce(g.truncated, false) AS truncated, coalesce(g.held, 0) AS held,
           coalesce(extract(epoch FROM clock_timestamp() - greatest(s.finished_at, g.updated_at)), 0)::float8 AS quiet
      FROM step_runs s LEFT JOIN step_logs g ON g.step_run_id = s.id WHERE s.id = $1
"""
_CHUNKS = """
    SELECT seq, start_offset, raw_size, compression, data
      FROM log_chunks WHERE step_run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A stored batch: `raw_size` bytes from `start` on, packed in `data`."""

    seq: int
    start: int
    raw_size: int
    compression: Compression
    data: bytes


async def holders(tx: Tx, step_ids: Iterable[UUID]) -> set[tuple[UUID, UUID]]:
    """Return the pairs of a step run and an agent that may send what it produces."""
    rows = await tx.fetch(_HOLDERS, list(step_ids))
    pairs = {(row["id"], agent_id) for row in rows for agent_id in (row["agent_id"], row["leased_to"])}
    return {(step_id, agent_id) for step_id, agent_id in pairs if agent_id is not None}


async def lock_states(tx: Tx, step_ids: Iterable[UUID]) -> dict[UUID, LogState]:
    """Lock the logs of these step runs, which exist, and return what is stored of each."""
    wanted = sorted(step_ids)
    states = await _locked(tx, wanted)
    if missing := [step_id for step_id in wanted if step_id not in states]:
        await tx.execute(_CREATE, missing)
        states |= await _locked(tx, missing)
    return states


async def _locked(tx: Tx, step_ids: Sequence[UUID]) -> dict[UUID, LogState]:
    return {row[0]: LogState(*row[1:]) for row in await tx.fetch(_LOCK, step_ids)}


async def store(tx: Tx, chunks: Sequence[tuple[int, LogBatch]], states: Mapping[UUID, LogState]) -> None:
    """Write batches, each at its offset, and the states of the logs that changed."""
    if chunks:
        rows = [
            (batch.step_id, batch.seq, start, batch.raw_size, batch.compression.value, batch.data)
            for start, batch in chunks
        ]
        await tx.execute(_INSERT, *(list(column) for column in zip(*rows, strict=True)))
        crashpoint("log.mid")
    if states:
        changed = [
            (step_id, state.last_seq, state.size, state.stored_bytes, state.lost_bytes, state.truncated, state.held)
            for step_id, state in states.items()
        ]
        await tx.execute(_UPDATE, *(list(column) for column in zip(*changed, strict=True)))


async def last_seq(tx: Tx, step_id: UUID) -> int:
    """Return the highest seq stored of a log, 0 for none."""
    return int(await tx.fetchval("SELECT last_seq FROM step_logs WHERE step_run_id = $1", step_id) or 0)


async def view(tx: Tx, step_id: UUID) -> LogView | None:
    """Return how far a log goes, None when there is no such step run."""
    row = await tx.fetchrow(_VIEW, step_id)
    return LogView(**dict(row)) if row else None


async def seq_before(tx: Tx, step_id: UUID, offset: int) -> int:
    """Return the seq after which to read in order to find a byte: that of the last chunk which ends before it."""
    seq = await tx.fetchval(
        "SELECT max(seq) FROM log_chunks WHERE step_run_id = $1 AND start_offset + raw_size <= $2", step_id, offset
    )
    return int(seq or 0)


async def chunks_after(tx: Tx, step_id: UUID, seq: int, limit: int) -> list[LogChunk]:
    """Return chunks in their order."""
    return [
        LogChunk(row[0], row[1], row[2], Compression(row[3]), row[4])
        for row in await tx.fetch(_CHUNKS, step_id, seq, limit)
    ]


async def replace_chunk(tx: Tx, step_id: UUID, seq: int, compression: Compression, data: bytes) -> None:
    """Write another content of the same size into a stored chunk."""
    await tx.execute(
        "UPDATE log_chunks SET compression = $3, data = $4 WHERE step_run_id = $1 AND seq = $2",
        step_id,
        seq,
        compression.value,
        data,
    )
