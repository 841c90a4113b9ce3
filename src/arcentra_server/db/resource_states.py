"""The current state of what a stream tells of, in the form of events that have not happened: id 0, no previous state."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.db.events import EventRow
from arcentra_server.db.resource_details import (
    AGENTS,
    JOBS,
    RUNS,
    STEPS,
    Detail,
    agent_detail,
    job_detail,
    run_detail,
    step_detail,
)
from arcentra_server.domain.errors import NotFound
from arcentra_server.domain.execution import Resource
from arcentra_server.domain.watch import Filter, Scope

State = tuple[EventRow, Detail]

_NOUN = {Resource.STEP: "step run", Resource.JOB: "job run", Resource.RUN: "pipeline run", Resource.AGENT: "agent"}
_FIND = {
    Resource.STEP: "SELECT id, run_id, finished_at IS NOT NULL AS ended FROM step_runs WHERE id = ANY($1)",
    Resource.JOB: "SELECT id, run_id, finished_at IS NOT NULL AS ended FROM job_runs WHERE id = ANY($1)",
    Resource.RUN: "SELECT id, id AS run_id, finished_at IS NOT NULL AS ended FROM pipeline_runs WHERE id = ANY($1)",
    Resource.AGENT: "SELECT id, NULL::uuid AS run_id, false AS ended FROM agents WHERE id = ANY($1) AND deleted_at IS NULL",
}
_ACTIVE_RUNS = "run_id IN (SELECT id FROM pipeline_runs WHERE finished_at IS NULL)"


async def resolve(tx: Tx, wanted: Filter) -> Scope:
    """Return what a stream is bound to: the narrowest things that its filter names.

    Raises:
        NotFound: something that the filter names is not there.
    """
    own = await _find(tx, wanted.resources, wanted.ids)
    jobs = await _find(tx, [Resource.JOB], wanted.job_ids)
    runs = await _find(tx, [Resource.RUN], wanted.run_ids)
    known = await tx.fetch("SELECT id FROM pipelines WHERE id = ANY($1)", list(wanted.pipeline_ids))
    _check(wanted.pipeline_ids, {row["id"] for row in known}, "pipeline")
    named = own or jobs or runs
    if not named or any(row["run_id"] is None for row in named):
        return Scope()
    return Scope(
        named=frozenset(row["id"] for row in named),
        open=frozenset(row["id"] for row in named if not row["ended"]),
        run_ids=frozenset(row["run_id"] for row in named),
    )


async def states(tx: Tx, wanted: Filter, *, unfinished: bool) -> list[State]:
    """Return the states of what a filter admits, by kind of resource and then by id.

    Args:
        tx: The moment to tell of.
        wanted: What to tell of.
        unfinished: Leave out what has ended.
    """
    found: list[State] = []
    if Resource.AGENT in wanted.resources and not (wanted.job_ids or wanted.run_ids or wanted.pipeline_ids):
        found += [(_agent_state(row), agent_detail(row)) for row in await _select_agents(tx, wanted)]
    if Resource.JOB in wanted.resources:
        rows = await _select(tx, JOBS, "j", wanted, unfinished=unfinished)
        found += [(_job_state(row), job_detail(row)) for row in rows]
    if Resource.RUN in wanted.resources:
        rows = await _select(tx, RUNS, "r", wanted, unfinished=unfinished)
        found += [(_run_state(row), run_detail(row)) for row in rows]
    if Resource.STEP in wanted.resources:
        rows = await _select(tx, STEPS, "s", wanted, unfinished=unfinished)
        found += [(_step_state(row), step_detail(row)) for row in rows]
    return found


async def _find(tx: Tx, resources: Collection[Resource], ids: Collection[UUID]) -> list[Row]:
    if not ids:
        return []
    rows = [row for resource in resources for row in await tx.fetch(_FIND[resource], list(ids))]
    noun = _NOUN[next(iter(resources))] if len(resources) == 1 else "resource"
    _check(ids, {row["id"] for row in rows}, noun)
    return rows


def _check(ids: Collection[UUID], found: Collection[UUID], noun: str) -> None:
    for identity in ids:
        if identity not in found:
            raise NotFound(f"{noun} {identity} not found")


async def _select_agents(tx: Tx, wanted: Filter) -> list[Row]:
    if wanted.ids:
        return await tx.fetch(AGENTS + "WHERE a.deleted_at IS NULL AND a.id = ANY($1) ORDER BY a.id", list(wanted.ids))
    return await tx.fetch(AGENTS + "WHERE a.deleted_at IS NULL ORDER BY a.id")


async def _select(tx: Tx, select: str, table: str, wanted: Filter, *, unfinished: bool) -> list[Row]:
    """Select steps (s), jobs (j) or runs (r). Only what restricts is part of the statement, so that indexes serve it."""
    run_id = "r.id" if table == "r" else f"{table}.run_id"
    restrictions: list[tuple[str, Collection[UUID]]] = [
        (f"{table}.id", wanted.ids),
        (run_id, wanted.run_ids),
        (f"{table}.pipeline_id", wanted.pipeline_ids),
    ]
    if table != "r":
        restrictions.append((f"{table}.job_run_id" if table == "s" else "j.id", wanted.job_ids))
    conditions: list[str] = []
    values: list[Any] = []
    for column, ids in restrictions:
        if ids:
            values.append(list(ids))
            conditions.append(f"{column} = ANY(${len(values)})")
    if wanted.job_name:
        values.append(wanted.job_name)
        conditions.append(f"j.name = ${len(values)}")
    if unfinished:
        conditions.append(f"{table}.finished_at IS NULL")
        if table != "r":
            conditions.append(f"{table}.{_ACTIVE_RUNS}")
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    return await tx.fetch(f"{select} {where} ORDER BY {table}.id", *values)


def _step_state(row: Row) -> EventRow:
    ids = (row["run_id"], row["job_run_id"], row["id"], row["agent_id"])
    return _state(row, Resource.STEP, ids, (0, 0, 0, 0, 0), waiting=row["waiting"])


def _job_state(row: Row) -> EventRow:
    counters = (row["total"], row["completed"], row["failed"], row["running"], row["current"])
    ids = (row["run_id"], row["id"], None, row["agent_id"])
    return _state(row, Resource.JOB, ids, counters, waiting=row["waiting"])


def _run_state(row: Row) -> EventRow:
    counters = (row["total"], row["completed"], row["failed"], row["running"], 0)
    return _state(row, Resource.RUN, (row["id"], None, None, None), counters, row["status_reason"])


def _agent_state(row: Row) -> EventRow:
    at = row["last_contact_at"] or row["created_at"]
    return _event(Resource.AGENT, at, None, (None, None, None, row["id"]), row["status"], (0, 0, 0, 0, 0), "")


def _state(
    row: Row,
    resource: Resource,
    ids: Sequence[UUID | None],
    counters: Sequence[int],
    message: str = "",
    waiting: str = "",
) -> EventRow:
    at = row["finished_at"] or row["started_at"] or row["created_at"]
    return _event(resource, at, row["pipeline_id"], ids, row["status"], counters, message, waiting)


def _event(
    resource: Resource,
    at: datetime,
    pipeline_id: UUID | None,
    ids: Sequence[UUID | None],
    status: str,
    counters: Sequence[int],
    message: str,
    waiting: str = "",
) -> EventRow:
    run_id, job_id, step_id, agent_id = ids
    total, completed, failed, running, current = counters
    return EventRow(
        id=0,
        xid=0,
        at=at,
        resource=resource,
        pipeline_id=pipeline_id,
        run_id=run_id,
        job_id=job_id,
        step_id=step_id,
        agent_id=agent_id,
        status=status,
        previous=None,
        total=total,
        completed=completed,
        failed=failed,
        running=running,
        current=current,
        message=message,
        actor="",
        waiting=waiting,
    )
