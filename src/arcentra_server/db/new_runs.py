"""Store a new run: its stages, jobs, steps, queue rows and events, one set-based statement each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from arcentra_server.db import events
from arcentra_server.db.engine import Tx
from arcentra_server.domain.errors import AlreadyExists
from arcentra_server.domain.execution import Event, Resource
from arcentra_server.domain.instantiate import NewRun, NewStep
from arcentra_server.domain.selectors import Selector
from arcentra_server.domain.states import StepStatus

# One statement for all rows of a run: their keys are checked when it ends.
_INSERT = """
    WITH run AS (
        INSERT INTO pipeline_runs (id, pipeline_id, namespace, spec_version, trigger_type, triggered_by, branch,
                                   commit_sha, variables, request_id, stage_count, total_jobs)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)),
    stages AS (
        INSERT INTO run_stages (run_id, stage_index, name, open_jobs)
        SELECT $1, * FROM unnest($13::int[], $14::text[], $15::int[])),
    jobs AS (
        INSERT INTO job_runs (run_id, pipeline_id, id, name, stage_index, job_index, selector_id, timeout_ms, total_steps)
        SELECT $1, $2, *
          FROM unnest($16::uuid[], $17::text[], $18::int[], $19::int[], $20::int[], $21::bigint[], $22::int[])),
    steps AS (
        INSERT INTO step_runs (run_id, pipeline_id, created_by, id, job_run_id, name, step_index, status, selector_id,
                               own_selector, continue_on_error, timeout_ms, dispatch)
        SELECT $1, $2, $6, *
          FROM unnest($23::uuid[], $24::uuid[], $25::text[], $26::int[], $27::text[], $28::int[], $29::bool[],
                      $30::bool[], $31::bigint[], $32::bytea[]))
    INSERT INTO step_queue (run_id, step_run_id, selector_id) SELECT $1, * FROM unnest($33::uuid[], $34::int[])
"""


class SelectorIds:
    """The ids of stored selectors. They never change and are never deleted, so those once seen are kept."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        # Stored by a transaction that may be rolled back: not to be kept while it is that one which finds it.
        self._stored_by: dict[bytes, Tx] = {}

    async def ensure(self, tx: Tx, selectors: Iterable[Selector]) -> dict[Selector, int]:
        """Return the ids of selectors, storing those that are new. Equal selectors share one id, whoever wrote them."""
        documents: dict[bytes, list[Any]] = {}
        digests: dict[Selector, bytes] = {}
        for selector in set(selectors):
            document = selector.to_json()
            digest = hashlib.sha256(json.dumps(document, separators=(",", ":")).encode()).digest()
            digests[selector], documents[digest] = digest, document
        ids = {digest: self._known[digest] for digest in documents if digest in self._known}
        if len(ids) < len(documents):
            found = await _selector_ids(tx, list(documents))
            self._known.update((digest, i) for digest, i in found.items() if self._stored_by.get(digest) is not tx)
            ids = {**ids, **found}
        for digest in documents.keys() & self._known.keys():
            self._stored_by.pop(digest, None)
        missing = sorted(documents.keys() - ids.keys())
        if missing:
            await tx.execute(
                """INSERT INTO selectors (digest, document) SELECT c.digest, c.document::jsonb
                     FROM unnest($1::bytea[], $2::text[]) AS c(digest, document) ON CONFLICT DO NOTHING""",
                missing,
                [json.dumps(documents[digest]) for digest in missing],
            )
            self._stored_by.update(dict.fromkeys(missing, tx))
            ids = {**ids, **await _selector_ids(tx, missing)}
        return {selector: ids[digest] for selector, digest in digests.items()}


async def _selector_ids(tx: Tx, digests: Sequence[bytes]) -> dict[bytes, int]:
    rows = await tx.fetch("SELECT digest, id FROM selectors WHERE digest = ANY($1)", digests)
    return {row["digest"]: row["id"] for row in rows}


async def insert(tx: Tx, run: NewRun, dispatches: Mapping[UUID, bytes], selectors: SelectorIds) -> None:
    """Store a run.

    Args:
        tx: The transaction.
        run: The run.
        dispatches: The wire form of each step run, by its id.
        selectors: The ids of stored selectors.

    Raises:
        AlreadyExists: the pipeline has a run of the same request id.
    """
    ids = await selectors.ensure(tx, {step.selector for _, step in run.steps()} | {job.selector for job in run.jobs})
    queued = [job.steps[0] for job in run.jobs if job.stage_index == 0]
    first = {step.id for step in queued}
    jobs = [
        (job.id, job.name, job.stage_index, job.index, ids[job.selector], job.timeout_ms, len(job.steps))
        for job in run.jobs
    ]
    steps = [_step_row(step, ids, dispatches[step.id], queued=step.id in first) for _, step in run.steps()]
    try:
        await tx.execute(
            _INSERT,
            *_run_row(run),
            *_columns((index, name, size) for index, (name, size) in enumerate(run.stages)),
            *_columns(jobs),
            *_columns(steps),
            *_columns((step.id, ids[step.selector]) for step in queued),
        )
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExists("a run of this request exists already") from error
    await events.append(tx, _events(run, first))


def _run_row(run: NewRun) -> tuple[Any, ...]:
    trigger = run.trigger
    return (
        run.id,
        run.pipeline_id,
        run.namespace,
        run.spec_version,
        trigger.type.value,
        trigger.triggered_by,
        trigger.branch,
        trigger.commit_sha,
        dict(run.variables),
        trigger.request_id,
        len(run.stages),
        len(run.jobs),
    )


def _step_row(step: NewStep, ids: Mapping[Selector, int], dispatch: bytes, *, queued: bool) -> tuple[Any, ...]:
    return (
        step.id,
        step.job_id,
        step.name,
        step.index,
        (StepStatus.QUEUED if queued else StepStatus.PENDING).value,
        ids[step.selector],
        step.own_selector,
        step.continue_on_error,
        step.timeout_ms,
        dispatch,
    )


def _events(run: NewRun, queued: set[UUID]) -> list[Event]:
    by = run.trigger.triggered_by
    created = [Event(Resource.RUN, run.pipeline_id, run.id, None, None, None, "PENDING", None, len(run.jobs), actor=by)]
    for job in run.jobs:
        created.append(
            Event(Resource.JOB, run.pipeline_id, run.id, job.id, None, None, "PENDING", None, len(job.steps), actor=by)
        )
        created += [
            Event(
                Resource.STEP,
                run.pipeline_id,
                run.id,
                job.id,
                step.id,
                None,
                "QUEUED" if step.id in queued else "PENDING",
                None,
                actor=by,
            )
            for step in job.steps
        ]
    return created


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
