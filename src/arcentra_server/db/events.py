"""The journal of changes: written with each change, in its transaction, and read in one order.

Ids grow in the order in which events are written, but transactions commit in any order: a reader that saw 8 and 10 must
not go past 9 until it knows that nobody will commit it. It knows by transaction numbers: when every transaction that
had its number at the moment the gap was seen has ended, what is missing never comes. That holds because `append` comes
after another write of its transaction, so that the transaction has its number before the event has its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.domain.execution import Event, Resource

_WRITTEN = (
    "resource",
    "pipeline_id",
    "run_id",
    "job_run_id",
    "step_run_id",
    "agent_id",
    "status",
    "previous_status",
    "total",
    "completed",
    "failed",
    "running",
    "current",
    "message",
    "actor",
    "waiting",
)
_COLUMNS = """id, xid, at, resource, pipeline_id, run_id, job_run_id, step_run_id, agent_id, status, previous_status,
    total, completed, failed, running, current, message, actor, waiting"""


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event as it is stored. `id` is its place in the journal, `xid` the transaction that wrote it."""

    id: int
    xid: int
    at: datetime
    resource: Resource
    pipeline_id: UUID | None
    run_id: UUID | None
    job_id: UUID | None
    step_id: UUID | None
    agent_id: UUID | None
    status: str
    previous: str | None
    total: int
    completed: int
    failed: int
    running: int
    current: int
    message: str
    actor: str
    waiting: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which transactions a moment holds: all below `xmin`, none from `xmax`, and of those between not `running`."""

    xmin: int
    xmax: int
    running: frozenset[int]

    def holds(self, xid: int) -> bool:
        """Answer whether what this transaction wrote is part of the moment."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)


async def append(tx: Tx, events: Sequence[Event]) -> None:
    """Write events, in their order. The transaction must have locked or written something before."""
    if events:
        # Most of what a busy server writes are events, and COPY is the cheapest way to write many rows. The fields of an
        # event are in the order of the columns.
        await tx.copy_records_to_table("events", records=events, columns=_WRITTEN)


async def snapshot(tx: Tx) -> Snapshot:
    """Return the moment that the next query of a snapshot transaction, or this one, sees."""
    text: str = await tx.fetchval("SELECT pg_current_snapshot()::text")
    xmin, xmax, running = text.split(":")
    return Snapshot(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid))


async def new_transaction_number(tx: Tx) -> int:
    """Give this transaction a number and return it: every transaction that had one before has a smaller one."""
    return int(await tx.fetchval("SELECT pg_current_xact_id()::text"))


async def read_after(tx: Tx, cursor: int, limit: int) -> list[EventRow]:
    """Return what is visible after a place in the journal, in order. It may have gaps: see the module."""
    rows = await tx.fetch(f"SELECT {_COLUMNS} FROM events WHERE id > $1 ORDER BY id LIMIT $2", cursor, limit)
    return [_event(row) for row in rows]


async def last_id(tx: Tx) -> int:
    """Return the last place of the journal that is visible, 0 for none."""
    return int(await tx.fetchval("SELECT coalesce(max(id), 0) FROM events"))


def _event(row: Row) -> EventRow:
    identity, xid, at, resource, *rest = row
    return EventRow(identity, xid, at, Resource(resource), *rest)
