"""The triggers of the definitions in force, and the ticks that schedules wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.db.clock import database_time
from arcentra_server.db.engine import Row, Tx
from arcentra_server.domain.cron import read_schedule
from arcentra_server.domain.definition import CronTrigger, EventTrigger, PipelineSpec, TriggerSpec
from arcentra_server.domain.definition_json import trigger_from_json, trigger_to_json
from arcentra_server.domain.states import TriggerType
from arcentra_server.domain.trigger_entries import trigger_digest

_COLUMNS = """t.pipeline_id, t.digest, t.trigger_index, t.document, t.next_at, t.last_fired_at, t.last_run_id,
              p.namespace, p.name, p.enabled"""
_SELECT = f"SELECT {_COLUMNS} FROM triggers t JOIN pipelines p ON p.id = t.pipeline_id "


@dataclass(frozen=True, slots=True)
class TriggerRow:
    """A trigger with the pipeline that it starts. `index` is its place in the definition."""

    pipeline_id: UUID
    pipeline_name: str
    namespace: str
    enabled: bool
    digest: str
    index: int
    trigger: CronTrigger | EventTrigger
    next_at: datetime | None
    last_fired_at: datetime | None
    last_run_id: UUID | None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A trigger whose stored document cannot be read."""

    pipeline_id: UUID
    digest: str
    error: Exception


@dataclass(frozen=True, slots=True)
class Fired:
    """A trigger that started a run."""

    pipeline_id: UUID
    digest: str
    run_id: UUID


async def replace(tx: Tx, pipeline_id: UUID, spec: PipelineSpec, *, enabled: bool, now: datetime | None = None) -> None:
    """Make the triggers of a pipeline those of a definition. A schedule that was there keeps the tick it waits for.

    Args:
        tx: The transaction, which has the pipeline locked.
        pipeline_id: The pipeline.
        spec: The definition that is in force from now on.
        enabled: Whether the pipeline is; else its schedules wait for no tick.
        now: The time from which new schedules count; None for the database's.
    """
    wanted: dict[str, tuple[int, TriggerSpec]] = {}
    for index, trigger in enumerate(spec.triggers):
        if isinstance(trigger, (CronTrigger, EventTrigger)):
            wanted.setdefault(trigger_digest(trigger), (index, trigger))
    rows = await tx.fetch("SELECT digest, next_at FROM triggers WHERE pipeline_id = $1 FOR UPDATE", pipeline_id)
    waiting = {row["digest"]: row["next_at"] for row in rows}
    stale = [digest for digest in waiting if digest not in wanted]
    if stale:
        await tx.execute("DELETE FROM triggers WHERE pipeline_id = $1 AND digest = ANY($2)", pipeline_id, stale)
    if not wanted:
        return
    if now is None:
        now = await database_time(tx)
    await tx.executemany(
        """INSERT INTO triggers (pipeline_id, digest, trigger_index, type, document, next_at)
           VALUES ($1, $2, $3, $4, $5, $6)
           ON CONFLICT (pipeline_id, digest)
           DO UPDATE SET trigger_index = excluded.trigger_index, next_at = excluded.next_at""",
        [
            (
                pipeline_id,
                digest,
                index,
                _type(trigger).value,
                trigger_to_json(trigger),
                (waiting.get(digest) or _first_tick(trigger, now)) if enabled else None,
            )
            for digest, (index, trigger) in wanted.items()
        ],
    )


async def remove(tx: Tx, pipeline_id: UUID) -> None:
    """Remove the triggers of a pipeline that is deleted."""
    await tx.execute("DELETE FROM triggers WHERE pipeline_id = $1", pipeline_id)


async def claim_due(tx: Tx, now: datetime, seconds: float, limit: int) -> list[TriggerRow | Unreadable]:
    """Return schedules whose tick is due and that no other server is at; for so long, others leave them alone.

    The claim is committed before anything is started: a lock that was held meanwhile would wait for the pipeline's, which
    whoever changes the pipeline holds while waiting for ours.
    """
    rows = await tx.fetch(
        f"""WITH due AS (
                SELECT pipeline_id, digest FROM triggers
                 WHERE next_at <= $1 AND (claimed_until IS NULL OR claimed_until <= $1)
                 ORDER BY next_at LIMIT $3 FOR UPDATE SKIP LOCKED),
            claimed AS (
                UPDATE triggers t SET claimed_until = $1 + make_interval(secs => $2) FROM due
                 WHERE t.pipeline_id = due.pipeline_id AND t.digest = due.digest RETURNING t.*)
            SELECT {_COLUMNS} FROM claimed t JOIN pipelines p ON p.id = t.pipeline_id ORDER BY t.next_at, t.pipeline_id""",
        now,
        seconds,
        limit,
    )
    return [_trigger_or_fault(row) for row in rows]


async def advance(tx: Tx, row: TriggerRow, from_tick: datetime, to_tick: datetime | None, now: datetime) -> bool:
    """Let a schedule wait for another tick, if it waits for this one; answer whether it did.

    The claim stays while the tick that it then waits for is due as well.
    """
    done = await tx.execute(
        """UPDATE triggers SET next_at = $4::timestamptz,
                  claimed_until = CASE WHEN $4::timestamptz <= $5::timestamptz THEN claimed_until END
            WHERE pipeline_id = $1 AND digest = $2 AND next_at = $3""",
        row.pipeline_id,
        row.digest,
        from_tick,
        to_tick,
        now,
    )
    return bool(done == "UPDATE 1")


async def note_fired(tx: Tx, fired: Sequence[Fired], now: datetime) -> None:
    """Note of triggers that they started runs."""
    if not fired:
        return
    by_key = {(str(one.pipeline_id), one.digest): one for one in fired}
    ordered = [by_key[key] for key in sorted(by_key)]
    pipelines, digests = [one.pipeline_id for one in ordered], [one.digest for one in ordered]
    # In one order everywhere: two deliveries at once note the same triggers.
    await tx.execute(
        """SELECT 1 FROM triggers t JOIN unnest($1::uuid[], $2::text[]) AS f(pipeline_id, digest)
               ON t.pipeline_id = f.pipeline_id AND t.digest = f.digest
            ORDER BY t.pipeline_id, t.digest FOR NO KEY UPDATE OF t""",
        pipelines,
        digests,
    )
    await tx.execute(
        """UPDATE triggers t SET last_fired_at = $4, last_run_id = f.run_id
             FROM unnest($1::uuid[], $2::text[], $3::uuid[]) AS f(pipeline_id, digest, run_id)
            WHERE t.pipeline_id = f.pipeline_id AND t.digest = f.digest""",
        pipelines,
        digests,
        [one.run_id for one in ordered],
        now,
    )


async def of_events(tx: Tx, namespace: str, pipeline_id: UUID | None) -> list[TriggerRow]:
    """Return the event triggers of the pipelines of a namespace, or of one of them."""
    rows = await tx.fetch(
        _SELECT
        + """WHERE t.type = 'EVENT' AND p.namespace = $1 AND ($2::uuid IS NULL OR p.id = $2) AND p.deleted_at IS NULL
             ORDER BY p.name, t.trigger_index""",
        namespace,
        pipeline_id,
    )
    return [_trigger(row) for row in rows]


async def list_all(tx: Tx, *, pipeline_id: UUID | None, namespace: str) -> list[TriggerRow]:
    """Return the triggers of pipelines, by pipeline."""
    rows = await tx.fetch(
        _SELECT
        + """WHERE ($1::uuid IS NULL OR p.id = $1) AND ($2 = '' OR p.namespace = $2) AND p.deleted_at IS NULL
             ORDER BY p.namespace, p.name, t.trigger_index""",
        pipeline_id,
        namespace,
    )
    return [_trigger(row) for row in rows]


def _first_tick(trigger: TriggerSpec, now: datetime) -> datetime | None:
    if not isinstance(trigger, CronTrigger):
        return None
    try:
        return read_schedule(trigger.schedule, trigger.time_zone).next_after(now)
    except ValueError:
        # A definition that was good when it was saved; another server may know fewer time zones than the one that did.
        return None


def _type(trigger: TriggerSpec) -> TriggerType:
    return TriggerType.CRON if isinstance(trigger, CronTrigger) else TriggerType.EVENT


def _trigger_or_fault(row: Row) -> TriggerRow | Unreadable:
    try:
        return _trigger(row)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is wrong with this one alone
        return Unreadable(row["pipeline_id"], row["digest"], error)


def _trigger(row: Row) -> TriggerRow:
    trigger = trigger_from_json(row["document"])
    if not isinstance(trigger, (CronTrigger, EventTrigger)):
        raise TypeError(f"a stored trigger is {type(trigger).__name__}")
    return TriggerRow(
        pipeline_id=row["pipeline_id"],
        pipeline_name=row["name"],
        namespace=row["namespace"],
        enabled=row["enabled"],
        digest=row["digest"],
        index=row["trigger_index"],
        trigger=trigger,
        next_at=row["next_at"],
        last_fired_at=row["last_fired_at"],
        last_run_id=row["last_run_id"],
    )
