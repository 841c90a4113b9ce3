"""Deliveries with a good signature: each is taken once, and remembered for as long as it may come again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from arcentra_server.db.engine import Row, Tx
from arcentra_server.domain.errors import NotFound, WriteConflict
from arcentra_server.domain.forge import ForgeEvent
from arcentra_server.domain.trigger_entries import TriggerOutcome

_COLUMNS = "id, hook_id, delivery_id, event, tries, outcome, reason, runs"
_PRUNED_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery. `event` is there until it is known what came of it; `runs` is what it started."""

    id: UUID
    hook_id: UUID
    delivery_id: str
    event: ForgeEvent | None
    tries: int
    outcome: TriggerOutcome | None
    reason: str
    runs: tuple[UUID, ...]


async def take(
    tx: Tx,
    new: UUID,
    hook_id: UUID,
    delivery_id: str,
    body_hash: bytes,
    event: ForgeEvent,
    *,
    now: datetime,
    seconds: float,
) -> tuple[DeliveryRow, bool]:
    """Take a delivery; return it, and whether it is the caller's to work on: else it was taken before.

    One that was taken, and not finished within its time, is the next one's.

    Raises:
        NotFound: the hook was deleted meanwhile.
        WriteConflict: it is to be sent again.
    """
    row = await _insert(
        tx,
        f"""INSERT INTO hook_deliveries (id, hook_id, delivery_id, body_hash, received_at, event, claimed_until, tries)
            VALUES ($1, $2, $3, $4, $5, $6, $7, 1)
            ON CONFLICT DO NOTHING RETURNING {_COLUMNS}""",
        new,
        hook_id,
        delivery_id or None,
        body_hash,
        now,
        event.to_json(),
        now + timedelta(seconds=seconds),
    )
    if row is not None:
        return _delivery(row), True
    known = await tx.fetchrow(
        f"""SELECT {_COLUMNS}, claimed_until FROM hook_deliveries
             WHERE hook_id = $1 AND (delivery_id = $2 OR body_hash = $3) ORDER BY received_at LIMIT 1 FOR UPDATE""",
        hook_id,
        delivery_id or None,
        body_hash,
    )
    if known is None:
        raise WriteConflict("the delivery was forgotten while it was looked for: send it again")
    if known["outcome"] is not None or known["claimed_until"] > now:
        return _delivery(known), False
    return _delivery(await _claim(tx, known["id"], now, seconds)), True


async def claim_unfinished(tx: Tx, *, now: datetime, seconds: float, limit: int) -> list[DeliveryRow]:
    """Return deliveries that were taken and not finished within their time, as the caller's to work on."""
    rows = await tx.fetch(
        """SELECT id FROM hook_deliveries WHERE outcome IS NULL AND claimed_until <= $1
            ORDER BY claimed_until LIMIT $2 FOR UPDATE SKIP LOCKED""",
        now,
        limit,
    )
    return [_delivery(await _claim(tx, row["id"], now, seconds)) for row in rows]


async def finish(tx: Tx, delivery: UUID, outcome: TriggerOutcome, reason: str, runs: Sequence[UUID]) -> None:
    """Note what came of a delivery. The first to say so is right."""
    await tx.execute(
        """UPDATE hook_deliveries SET outcome = $2, reason = $3, runs = $4, event = NULL, claimed_until = NULL
            WHERE id = $1 AND outcome IS NULL""",
        delivery,
        outcome.value,
        reason,
        [str(run) for run in runs],
    )


async def prune(tx: Tx, older_than: datetime) -> int:
    """Forget deliveries that are too old to come again, a few thousand of them; return how many."""
    done = await tx.execute(
        """DELETE FROM hook_deliveries WHERE id IN
               (SELECT id FROM hook_deliveries WHERE received_at < $1 ORDER BY received_at LIMIT $2)""",
        older_than,
        _PRUNED_AT_ONCE,
    )
    return int(done.split()[-1])


async def _insert(tx: Tx, statement: str, *values: object) -> Row | None:
    try:
        return await tx.fetchrow(statement, *values)
    except asyncpg.ForeignKeyViolationError as error:
        raise NotFound("no such hook") from error


async def _claim(tx: Tx, delivery: UUID, now: datetime, seconds: float) -> Row:
    row = await tx.fetchrow(
        f"""UPDATE hook_deliveries SET claimed_until = $2, tries = tries + 1
             WHERE id = $1 RETURNING {_COLUMNS}""",
        delivery,
        now + timedelta(seconds=seconds),
    )
    if row is None:
        raise LookupError("a locked row is gone")
    return row


def _delivery(row: Row) -> DeliveryRow:
    return DeliveryRow(
        id=row["id"],
        hook_id=row["hook_id"],
        delivery_id=row["delivery_id"] or "",
        event=ForgeEvent.from_json(row["event"]) if row["event"] is not None else None,
        tries=row["tries"],
        outcome=TriggerOutcome(row["outcome"]) if row["outcome"] else None,
        reason=row["reason"],
        runs=tuple(UUID(run) for run in row["runs"]),
    )
