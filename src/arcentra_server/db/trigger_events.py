"""The ledger of triggers: written once an entry, folded where many say the same, and kept for a while."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.db.engine import Tx, new_id
from arcentra_server.db.paging import Page
from arcentra_server.domain.states import TriggerType
from arcentra_server.domain.trigger_entries import Entry, TriggerOutcome

_COLUMNS = """id, key, at, type, namespace, pipeline_id, trigger_index, hook_id, delivery_id, tick_at, outcome, reason,
              run_id, summary"""
_UNNEST = """unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::uuid[], $7::int[], $8::uuid[],
                    $9::text[], $10::timestamptz[], $11::text[], $12::text[], $13::uuid[], $14::text[])"""
_PRUNED_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class TriggerEventRow:
    """An entry as it is read. `count`: how often it happened, from `at` on."""

    id: UUID
    at: datetime
    type: TriggerType
    namespace: str
    pipeline_id: UUID | None
    pipeline_name: str
    trigger_index: int
    hook_id: UUID | None
    delivery_id: str
    tick_at: datetime | None
    outcome: TriggerOutcome
    reason: str
    run_id: UUID | None
    summary: str
    count: int


async def append(tx: Tx, entries: Sequence[Entry], now: datetime) -> None:
    """Write entries. One that is there stays as it is, unless it is now known that a run was started."""
    if entries:
        await tx.execute(
            f"""INSERT INTO trigger_events ({_COLUMNS}) SELECT * FROM {_UNNEST}
                ON CONFLICT (key) DO UPDATE SET outcome = excluded.outcome, reason = excluded.reason,
                                                run_id = excluded.run_id
                 WHERE excluded.run_id IS NOT NULL AND trigger_events.run_id IS NULL""",
            *_rows(entries, now),
        )


async def fold(tx: Tx, entry: Entry, now: datetime) -> None:
    """Write an entry, or count it once more if it is there."""
    await tx.execute(
        f"""INSERT INTO trigger_events ({_COLUMNS}) SELECT * FROM {_UNNEST}
            ON CONFLICT (key) DO UPDATE SET count = trigger_events.count + 1""",
        *_rows([entry], now),
    )


async def list_page(
    tx: Tx,
    *,
    pipeline_id: UUID | None,
    namespace: str,
    hook_id: UUID | None,
    outcome: TriggerOutcome | None,
    page: Page,
) -> tuple[list[TriggerEventRow], int]:
    """Return one page of the ledger, the newest entries first, and how many there are."""
    where = """WHERE ($1::uuid IS NULL OR e.pipeline_id = $1) AND ($2 = '' OR e.namespace = $2)
                 AND ($3::uuid IS NULL OR e.hook_id = $3) AND ($4::text IS NULL OR e.outcome = $4)"""
    values = (pipeline_id, namespace, hook_id, outcome.value if outcome else None)
    rows = await tx.fetch(
        f"""SELECT e.id, e.at, e.type, e.namespace, e.pipeline_id, coalesce(p.name, '') AS pipeline_name,
                   e.trigger_index, e.hook_id, e.delivery_id, e.tick_at, e.outcome, e.reason, e.run_id, e.summary, e.count
              FROM trigger_events e LEFT JOIN pipelines p ON p.id = e.pipeline_id {where}
             ORDER BY e.at DESC, e.id DESC LIMIT {page.size} OFFSET {(page.number - 1) * page.size}""",
        *values,
    )
    total = await tx.fetchval(f"SELECT count(*) FROM trigger_events e {where}", *values)
    found = [
        TriggerEventRow(**{**row, "type": TriggerType(row["type"]), "outcome": TriggerOutcome(row["outcome"])})
        for row in rows
    ]
    return found, total


async def prune(tx: Tx, older_than: datetime, most: int) -> int:
    """Delete entries that are too old, or beyond the newest so many, a few thousand of each; return how many."""
    old = await tx.execute(
        """DELETE FROM trigger_events WHERE id IN
               (SELECT id FROM trigger_events WHERE at < $1 ORDER BY at LIMIT $2)""",
        older_than,
        _PRUNED_AT_ONCE,
    )
    many = await tx.execute(
        """DELETE FROM trigger_events WHERE id IN
               (SELECT id FROM trigger_events ORDER BY at DESC, id DESC OFFSET $1 LIMIT $2)""",
        most,
        _PRUNED_AT_ONCE,
    )
    return int(old.split()[-1]) + int(many.split()[-1])


def _rows(entries: Sequence[Entry], now: datetime) -> list[list[object]]:
    rows = [
        (
            new_id(),
            entry.key,
            now,
            entry.type.value,
            entry.namespace,
            entry.pipeline_id,
            entry.trigger_index,
            entry.hook_id,
            entry.delivery_id,
            entry.tick_at,
            entry.outcome.value,
            entry.reason,
            entry.run_id,
            entry.summary,
        )
        for entry in entries
    ]
    return [list(column) for column in zip(*rows, strict=True)]
