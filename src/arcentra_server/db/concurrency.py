"""Concurrency keys: who holds them, who waits, and whose turn it is."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.db.engine import Tx

# Who gets which place of which key: the n-th that waits gets the n-th free place, if it allows so many, and so do all
# that are older. One of a paused run is passed over until the loop looks again, at most a second after it is resumed.
_TURNS = """
    WITH waiting AS (
        SELECT c.job_run_id, c.run_id, c.namespace, c.key, c.most,
               row_number() OVER (PARTITION BY c.namespace, c.key ORDER BY c.run_id, c.job_index, c.job_run_id) AS turn
          FROM concurrency_claims c JOIN pipeline_runs r ON r.id = c.run_id
         WHERE c.place IS NULL AND NOT r.paused AND c.job_run_id <> ALL($1::uuid[]) {restriction}),
    free AS (
        SELECT k.namespace, k.key, p AS place, row_number() OVER (PARTITION BY k.namespace, k.key ORDER BY p) AS turn
          FROM (SELECT namespace, key, max(most) AS most FROM waiting GROUP BY namespace, key) k
         CROSS JOIN generate_series(0, k.most - 1) p
         WHERE NOT EXISTS (SELECT 1 FROM concurrency_claims h
                            WHERE h.namespace = k.namespace AND h.key = k.key AND h.place = p)),
    turns AS (
        SELECT w.*, f.place, bool_and(coalesce(f.place < w.most, false) {condition})
                                 OVER (PARTITION BY w.namespace, w.key ORDER BY w.turn) AS fits
          FROM waiting w LEFT JOIN free f ON f.namespace = w.namespace AND f.key = w.key AND f.turn = w.turn)
"""
_NEXT = (
    _TURNS.format(restriction="", condition="")
    + "SELECT job_run_id, run_id, namespace, key FROM turns WHERE fits ORDER BY run_id, namespace, key, turn LIMIT $2"
)
# A key has no row of its own: all who give out its places take the same lock, after that of the run.
_LOCK = """
    SELECT pg_advisory_xact_lock(hashtextextended(namespace || chr(1) || key, 7))
      FROM unnest($1::text[], $2::text[]) AS k(namespace, key)
"""
_TAKE = (
    _TURNS.format(
        restriction="AND (c.namespace, c.key) IN (SELECT * FROM unnest($2::text[], $3::text[]))",
        condition="AND w.job_run_id = ANY($4::uuid[])",
    )
    + """
    UPDATE concurrency_claims c SET place = t.place, since = clock_timestamp()
      FROM turns t WHERE t.fits AND c.job_run_id = t.job_run_id RETURNING c.job_run_id, t.turn
"""
)
# Jobs that one of a younger run supersedes.
_SUPERSEDED = """
    SELECT old.run_id, old.job_run_id, max(young.run_id::text)::uuid AS by_run
      FROM concurrency_claims old
      JOIN concurrency_claims young ON young.namespace = old.namespace AND young.key = old.key
           AND young.cancel_in_progress AND young.run_id > old.run_id
      -- One that is paused starts nothing: it supersedes when it is resumed.
      JOIN pipeline_runs y ON y.id = young.run_id AND NOT y.paused
      JOIN job_runs j ON j.id = old.job_run_id AND j.closing = '' AND j.finished_at IS NULL
     WHERE {restriction}
     GROUP BY old.run_id, old.job_run_id ORDER BY old.run_id
"""
_OLDER = _SUPERSEDED.format(restriction="old.job_run_id <> ALL($1::uuid[])") + " LIMIT $2"
_SUPERSEDING = _SUPERSEDED.format(restriction="old.job_run_id = ANY($1::uuid[])")
_LIST = """
    SELECT c.namespace, c.key, c.place, c.job_run_id, j.name AS job_name, c.run_id, r.pipeline_id, p.name AS pipeline_name,
           c.since, c.most
      FROM concurrency_claims c
      JOIN job_runs j ON j.id = c.job_run_id
      JOIN pipeline_runs r ON r.id = c.run_id
      JOIN pipelines p ON p.id = r.pipeline_id
     WHERE ($1 = '' OR c.namespace = $1) AND ($2 = '' OR c.key = $2)
     ORDER BY c.namespace, c.key, c.place NULLS LAST, c.run_id, c.job_index LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A job that holds a key (`place` set), or waits for it."""

    namespace: str
    key: str
    place: int | None
    job_run_id: UUID
    job_name: str
    run_id: UUID
    pipeline_id: UUID
    pipeline_name: str
    since: datetime
    most: int


@dataclass(frozen=True, slots=True)
class Waiter:
    """A job that may get the key that it waits for."""

    job_run_id: UUID
    run_id: UUID
    namespace: str
    key: str


async def next_waiters(tx: Tx, passed_over: Iterable[Hashable], limit: int) -> list[Waiter]:
    """Return jobs that may get the key that they wait for, by run and key, in the order of their turns; not locked."""
    return [Waiter(*row) for row in await tx.fetch(_NEXT, list(passed_over), limit)]


async def superseded(tx: Tx, passed_over: Iterable[Hashable], limit: int) -> list[tuple[UUID, UUID]]:
    """Return (run, job run) of jobs which one of a younger run cancels; not locked."""
    return [(row["run_id"], row["job_run_id"]) for row in await tx.fetch(_OLDER, list(passed_over), limit)]


async def superseding(tx: Tx, job_run_ids: Sequence[UUID]) -> dict[UUID, UUID]:
    """Return by which run those of these jobs are superseded that are."""
    return {row["job_run_id"]: row["by_run"] for row in await tx.fetch(_SUPERSEDING, job_run_ids)}


async def take(
    tx: Tx, keys: Iterable[tuple[str, str]], job_run_ids: Sequence[UUID], passed_over: Iterable[Hashable]
) -> list[UUID]:
    """Give jobs of a run the keys that they wait for, as long as nobody older waits and there is a place.

    Args:
        tx: The transaction, which has the run locked.
        keys: The keys, each with its namespace.
        job_run_ids: The jobs.
        passed_over: Jobs that are left alone for now, however old they are.

    Returns:
        Those that got it, in the order of their turns.
    """
    # In one order by everybody, so that two who want several do not wait for each other.
    namespaces, names = zip(*sorted(set(keys)), strict=True)
    await tx.execute(_LOCK, namespaces, names)
    rows = await tx.fetch(_TAKE, list(passed_over), namespaces, names, job_run_ids)
    return [row["job_run_id"] for row in sorted(rows, key=lambda row: int(row["turn"]))]


async def list_claims(tx: Tx, namespace: str, key: str, limit: int) -> list[ClaimRow]:
    """Return who holds and who waits, by key; empty restricts nothing."""
    return [ClaimRow(**dict(row)) for row in await tx.fetch(_LIST, namespace, key, limit)]
