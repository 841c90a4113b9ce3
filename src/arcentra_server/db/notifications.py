"""The outbox of notifications, and the log of their deliveries.

An attempt is claimed for a time. Whoever claimed it writes what came of it; if that never happens, as the server was
killed, the claim lapses and somebody tries again. So a notification is sent at least once, and now and then twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.db.paging import Page
from arcentra_server.domain.deliveries import Delivery
from arcentra_server.domain.notices import Notice
from arcentra_server.domain.states import RunStatus

LOST = "the server ended before it knew what came of it"
# What it tells of is kept here, as the job may run again before it is sent.
_ENQUEUE = """
    INSERT INTO notifications (id, run_id, job_run_id, pipeline_id, outcome, plugin, args, job_name, job_status,
                               failure_reason, error_message, duration_ms, finished_at)
    SELECT c.id, c.run_id, j.id, j.pipeline_id, c.outcome, n.spec->>'plugin', coalesce(n.spec->'args', '{}'), j.name,
           j.status, coalesce(j.failure_reason, ''), j.error_message,
           coalesce(extract(epoch FROM j.finished_at - j.started_at) * 1000, 0)::bigint, j.finished_at
      FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[]) AS c(id, job_run_id, run_id, outcome)
      JOIN job_runs j ON j.id = c.job_run_id
     CROSS JOIN LATERAL (SELECT j.notify->('on_' || c.outcome) AS spec) n
     WHERE n.spec IS NOT NULL
"""
_CLAIM = """
    WITH due AS (
        SELECT id, attempts, claimed_until FROM notifications
         WHERE state = 'pending' AND next_at <= clock_timestamp()
           AND (claimed_until IS NULL OR claimed_until <= clock_timestamp())
         ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED
    ), lost AS (
        INSERT INTO notification_attempts (notification_id, number, at, error)
        SELECT id, attempts, claimed_until, $3 FROM due WHERE claimed_until IS NOT NULL
        ON CONFLICT DO NOTHING
    )
    UPDATE notifications n
       SET attempts = n.attempts + (due.attempts < $2)::int,
           state = CASE WHEN due.attempts < $2 THEN 'pending' ELSE 'failed' END,
           next_at = CASE WHEN due.attempts < $2 THEN n.next_at END,
           claimed_until = CASE WHEN due.attempts < $2 THEN clock_timestamp() + $1::interval END
      FROM due WHERE n.id = due.id
    RETURNING n.id, n.state, n.attempts
"""
_DUE = """
    SELECT n.id, n.outcome, n.plugin, n.args, n.run_id, n.job_run_id, n.pipeline_id, n.job_name, n.job_status,
           n.failure_reason, n.error_message, n.duration_ms, n.finished_at, r.namespace, r.branch, r.commit_sha,
           p.name AS pipeline
      FROM notifications n JOIN pipeline_runs r ON r.id = n.run_id JOIN pipelines p ON p.id = n.pipeline_id
     WHERE n.id = $1
"""
# A late answer to a lapsed claim is still the truth about that attempt.
_LOG = """
    INSERT INTO notification_attempts (notification_id, number, delivered, error, duration_ms)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (notification_id, number) DO UPDATE
       SET at = excluded.at, delivered = excluded.delivered, error = excluded.error, duration_ms = excluded.duration_ms
"""
_SETTLE = """
    UPDATE notifications
       SET state = $3, claimed_until = NULL, next_at = CASE WHEN $3 = 'pending' THEN clock_timestamp() + $4::interval END
     WHERE id = $1 AND state = 'pending' AND (attempts = $2 OR $3 = 'sent')
"""
_ATTEMPTS = """
    SELECT notification_id, at, delivered, error, duration_ms FROM notification_attempts
     WHERE notification_id = ANY($1) ORDER BY notification_id, number
"""
_FORGET = """
    DELETE FROM notifications WHERE id IN (
        SELECT id FROM notifications WHERE created_at < clock_timestamp() - $1::interval ORDER BY created_at LIMIT $2)
"""


@dataclass(frozen=True, slots=True)
class DueNotification:
    """What is to be sent. `args` are as they were written."""

    plugin: str
    args: Mapping[str, Any]
    notice: Notice


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An attempt that ended."""

    at: datetime
    delivered: bool
    error: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class NotificationRow:
    """A notification with its log, the oldest attempt first. `next_at` None: there is no other attempt."""

    id: UUID
    run_id: UUID
    job_name: str
    plugin: str
    outcome: str
    state: str
    created_at: datetime
    next_at: datetime | None
    attempts: tuple[AttemptRow, ...]


async def enqueue(tx: Tx, rows: Sequence[tuple[UUID, UUID, UUID, str]]) -> None:
    """Put notifications of jobs that ended into the outbox, in the transaction that ended them.

    Args:
        tx: The transaction.
        rows: Id of the notification, job run, run, and `success` or `failure`. A job whose definition has nothing to say
            at this outcome is passed over.
    """
    if rows:
        await tx.execute(_ENQUEUE, *(list(column) for column in zip(*rows, strict=True)))


async def claim(tx: Tx, *, lapse: timedelta, most_attempts: int) -> tuple[UUID, int] | None:
    """Begin the attempt that is due for longest; return notification and number, None when nothing is due.

    One whose last attempt was begun and never ended is given up, and passed over.
    """
    while True:
        row = await tx.fetchrow(_CLAIM, lapse, most_attempts, LOST)
        if row is None:
            return None
        if row["state"] == "pending":
            return row["id"], row["attempts"]


async def due(tx: Tx, notification_id: UUID) -> DueNotification | None:
    """Return what is to be sent; None when its run was deleted."""
    row = await tx.fetchrow(_DUE, notification_id)
    return None if row is None else DueNotification(row["plugin"], row["args"], _notice(row))


async def settle(tx: Tx, notification_id: UUID, number: int, delivery: Delivery, again_in: timedelta | None) -> None:
    """Write what came of an attempt.

    Args:
        tx: The transaction.
        notification_id: The notification.
        number: The attempt, as it was claimed.
        delivery: How it went.
        again_in: Until the next attempt if it failed; None: it is given up.
    """
    state = "sent" if delivery.delivered else "failed" if again_in is None else "pending"
    if await tx.execute(_SETTLE, notification_id, number, state, again_in) == "UPDATE 0":
        known = await tx.fetchval("SELECT 1 FROM notifications WHERE id = $1 FOR KEY SHARE", notification_id)
        if known is None:
            return
    await tx.execute(_LOG, notification_id, number, delivery.delivered, delivery.error, delivery.duration_ms)


async def list_page(
    tx: Tx, *, pipeline_id: UUID | None, run_id: UUID | None, page: Page
) -> tuple[list[NotificationRow], int]:
    """Return one page of notifications and how many there are."""
    where = "WHERE ($1::uuid IS NULL OR pipeline_id = $1) AND ($2::uuid IS NULL OR run_id = $2)"
    total = await tx.fetchval(f"SELECT count(*) FROM notifications {where}", pipeline_id, run_id)
    rows = await tx.fetch(
        f"""SELECT id, run_id, job_name, plugin, outcome, state, created_at, next_at FROM notifications {where}
            {page.clause({"created_at": "created_at"})}""",
        pipeline_id,
        run_id,
    )
    log: dict[UUID, list[AttemptRow]] = {row["id"]: [] for row in rows}
    for row in await tx.fetch(_ATTEMPTS, list(log)):
        log[row["notification_id"]].append(AttemptRow(row["at"], row["delivered"], row["error"], row["duration_ms"]))
    return [NotificationRow(**row, attempts=tuple(log[row["id"]])) for row in rows], int(total)


async def forget(tx: Tx, age: timedelta, limit: int) -> int:
    """Delete notifications that are older, with their logs, at most so many; return how many."""
    done: str = await tx.execute(_FORGET, age, limit)
    return int(done.rpartition(" ")[2])


def _notice(row: Row) -> Notice:
    return Notice(
        notification_id=row["id"],
        failed=row["outcome"] == "failure",
        namespace=row["namespace"],
        pipeline_id=row["pipeline_id"],
        pipeline=row["pipeline"],
        run_id=row["run_id"],
        job_run_id=row["job_run_id"],
        job=row["job_name"],
        status=RunStatus(row["job_status"]),
        reason=row["failure_reason"],
        error=row["error_message"],
        branch=row["branch"],
        commit=row["commit_sha"],
        duration_ms=row["duration_ms"],
        finished_at=row["finished_at"],
    )
