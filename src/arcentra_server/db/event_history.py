"""The journal as it is read again: by the runs that a reader is bound to, or all of it."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from arcentra_server.db.engine import Tx
from arcentra_server.db.events import EventRow
from arcentra_server.domain.execution import Resource

_SELECT = """
    SELECT id, xid, at, resource, pipeline_id, run_id, job_run_id, step_run_id, agent_id, status, previous_status,
           total, completed, failed, running, current, message, actor, waiting
      FROM events WHERE id > $1 AND id <= $2
"""
_TOUCHED = """
    SELECT DISTINCT coalesce(step_run_id, job_run_id, run_id) FROM events WHERE run_id = ANY($1) AND id > $2
"""


async def read_between(
    tx: Tx, after: int, last: int, limit: int, *, run_ids: Collection[UUID] | None = None
) -> list[EventRow]:
    """Return events after one place up to and including another, in order; of these runs only, if they are given."""
    if run_ids is None:
        rows = await tx.fetch(_SELECT + " ORDER BY id LIMIT $3", after, last, limit)
    else:
        rows = await tx.fetch(_SELECT + " AND run_id = ANY($4) ORDER BY id LIMIT $3", after, last, limit, list(run_ids))
    return [EventRow(row[0], row[1], row[2], Resource(row[3]), *row[4:]) for row in rows]


async def touched_after(tx: Tx, after: int, run_ids: Collection[UUID]) -> frozenset[UUID]:
    """Return the runs, jobs and steps of these runs that have events after a place in the journal."""
    return frozenset(row[0] for row in await tx.fetch(_TOUCHED, list(run_ids), after))


def own_id(event: EventRow) -> UUID:
    """Return the id of what an event is about."""
    identity = event.step_id or event.job_id or event.run_id or event.agent_id
    assert identity is not None, "an event is about something"  # noqa: S101 - every writer of events sets one of them
    return identity
