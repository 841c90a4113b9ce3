"""Store a new run: its stages, jobs, steps, queue rows and events, one set-based statement each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from arcentra_server.db import events
from arcentra_server.db.engine import Tx
from arcentra_server.db.shares import last_share
from arcentra_server.domain.definition_json import approval_to_json, notify_to_json, retry_to_json
from arcentra_server.domain.errors import AlreadyExists
from arcentra_server.domain.execution import Event, Resource, Waiting
from arcentra_server.domain.instantiate import NewJob, NewRun, NewStage, NewStep
from arcentra_server.domain.selectors import Selector
from arcentra_server.domain.states import GateState, StepStatus

FEW_EVENTS = 50  # so many are written by the statement that writes the rest: COPY is cheaper for more, but waited for
# One statement for all rows of a run: their keys are checked when it ends.
_INSERT = (
    """
    WITH run AS (
        INSERT INTO pipeline_runs (id, pipeline_id, namespace, spec_version, trigger_type, triggered_by, branch,
                                   commit_sha, variables, request_id, stage_count, total_jobs, trigger_actor, event,
                                   pins, timeout_ms)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)),
    stages AS (
        INSERT INTO run_stages (run_id, stage_index, name, open_jobs, opened, gate, approval)
        SELECT $1, c.place, c.name, c.size, c.opened, c.gate, c.approval::jsonb
          FROM unnest($17::int[], $18::text[], $19::int[], $20::bool[], $21::text[], $22::text[])
               AS c(place, name, size, opened, gate, approval)),
    jobs AS (
        INSERT INTO job_runs (run_id, pipeline_id, id, name, stage_index, job_index, selector_id, timeout_ms, total_steps,
                              definition_name, total_needs, open_needs, has_dependants, waits_for, priority, matrix,
                              condition, allow_failure, concurrency, concurrency_limit, cancel_in_progress, retry,
                              retries_left, gate, approval, output_texts, notify, target)
        SELECT $1, $2, c.id, c.name, c.stage_index, c.job_index, c.selector_id, c.timeout_ms, c.total_steps,
               c.definition_name, c.needs, c.needs, c.has_dependants, c.waits_for, c.priority, coalesce(x.matrix, '{}'),
               coalesce(x.condition, ''), coalesce(x.allow_failure, false), coalesce(x.concurrency, ''),
               coalesce(x.concurrency_limit, 1), coalesce(x.cancel_in_progress, false), x.retry,
               coalesce(x.retries_left, 0), coalesce(x.gate, ''), x.approval, coalesce(x.output_texts, '{}'), x.notify,
               x.target
          FROM unnest($23::uuid[], $24::text[], $25::int[], $26::int[], $27::int[], $28::bigint[], $29::int[],
                      $30::text[], $31::int[], $32::bool[], $33::text[], $34::int[], $35::text[])
               AS c(id, name, stage_index, job_index, selector_id, timeout_ms, total_steps, definition_name, needs,
                    has_dependants, waits_for, priority, more)
         CROSS JOIN LATERAL jsonb_to_record(coalesce(c.more, '{}')::jsonb)
               AS x(matrix jsonb, condition text, allow_failure bool, concurrency text, concurrency_limit int,
                    cancel_in_progress bool, retry jsonb, retries_left int, gate text, approval jsonb, output_texts jsonb,
                    notify jsonb, target jsonb)),
    needs AS (
        INSERT INTO job_needs (job_run_id, needed_id) SELECT * FROM unnest($36::uuid[], $37::uuid[])),
    steps AS (
        INSERT INTO step_runs (run_id, pipeline_id, created_by, id, job_run_id, name, step_index, status, selector_id,
                               own_selector, continue_on_error, timeout_ms, dispatch, condition, kind, templates, secrets)
        SELECT $1, $2, $6, c.id, c.job_run_id, c.name, c.step_index, c.status, c.selector_id, c.own_selector,
               c.continue_on_error, c.timeout_ms, c.dispatch, c.condition, c.kind, c.templates::jsonb,
               coalesce(c.secrets, '{}')::jsonb
          FROM unnest($38::uuid[], $39::uuid[], $40::text[], $41::int[], $42::text[], $43::int[], $44::bool[],
                      $45::bool[], $46::bigint[], $47::bytea[], $48::text[], $49::text[], $50::text[], $51::text[])
               AS c(id, job_run_id, name, step_index, status, selector_id, own_selector, continue_on_error, timeout_ms,
                    dispatch, condition, kind, templates, secrets)),
    events AS (
        INSERT INTO events (resource, pipeline_id, run_id, job_run_id, step_run_id, status, total, actor, waiting)
        SELECT c.resource, $2, $1, c.job_run_id, c.step_run_id, c.status, c.total, $6, c.waiting
          FROM unnest($55::text[], $56::uuid[], $57::uuid[], $58::text[], $59::int[], $60::text[])
               AS c(resource, job_run_id, step_run_id, status, total, waiting))
    INSERT INTO step_queue (run_id, pipeline_id, step_run_id, selector_id, priority, share)
    SELECT $1, $2, c.id, c.selector_id, c.priority, s.last + c.nth
      FROM (SELECT *, row_number() OVER (PARTITION BY selector_id, priority ORDER BY place) AS nth
              FROM unnest($52::uuid[], $53::int[], $54::int[]) WITH ORDINALITY AS u(id, selector_id, priority, place)) c
      JOIN (SELECT d.*, """
    + last_share("$2", "d.selector_id", "d.priority")
    + """ AS last
              FROM (SELECT DISTINCT * FROM unnest($53::int[], $54::int[]) AS u(selector_id, priority)) d) s
     USING (selector_id, priority)
"""
)


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


async def insert(tx: Tx, run: NewRun, dispatches: Mapping[UUID, bytes], selectors: SelectorIds) -> dict[UUID, int]:
    """Store a run; return those of its step runs that are queued, the most urgent first, with the ids of their selectors.

    The transaction must have written something before, see `events`.

    Args:
        tx: The transaction.
        run: The run.
        dispatches: The wire form of each step run, by its id.
        selectors: The ids of stored selectors.

    Raises:
        AlreadyExists: the pipeline has a run of the same request id.
    """
    ids = await selectors.ensure(tx, {step.selector for _, step in run.steps()} | {job.selector for job in run.jobs})
    plainly = run.starts_plainly
    starting = [job for job in run.jobs if job.stage_index == 0 and not job.needs] if plainly else []
    starting.sort(key=lambda job: -job.spec.priority)
    first = {job.steps[0].id: ids[job.steps[0].selector] for job in starting}
    needed = {job_id for job in run.jobs for job_id in job.needs}
    jobs = [_job_row(job, ids, plainly=plainly, needed=job.id in needed) for job in run.jobs]
    steps = [_step_row(step, ids, dispatches[step.id], queued=step.id in first) for _, step in run.steps()]
    created = _events(run, first, plainly=plainly)
    few = created if len(created) <= FEW_EVENTS else []
    try:
        await tx.execute(
            _INSERT,
            *_run_row(run),
            *_columns(
                _stage_row(index, stage, opened=index == 0 and plainly) for index, stage in enumerate(run.stages)
            ),
            *_columns(jobs),
            *_columns(((job.id, need) for job in run.jobs for need in job.needs), 2),
            *_columns(steps),
            *_columns(((job.steps[0].id, ids[job.steps[0].selector], job.spec.priority) for job in starting), 3),
            *_columns(((one.resource, one.job_id, one.step_id, one.status, one.total, one.waiting) for one in few), 6),
        )
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExists("a run of this request exists already") from error
    if not few:
        await events.append(tx, created)
    return first


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
        trigger.actor,
        dict(trigger.event),
        dict(run.pins),
        run.timeout_ms,
    )


def _stage_row(index: int, stage: NewStage, *, opened: bool) -> tuple[Any, ...]:
    return (
        index,
        stage.name,
        stage.size,
        opened,
        (GateState.REQUIRED if stage.gate else GateState.NONE).value,
        json.dumps(approval_to_json(stage.gate)) if stage.gate else None,
    )


def _job_row(job: NewJob, ids: Mapping[Selector, int], *, plainly: bool, needed: bool) -> tuple[Any, ...]:
    return (
        job.id,
        job.name,
        job.stage_index,
        job.index,
        ids[job.selector],
        job.timeout_ms,
        len(job.steps),
        job.spec.name,
        len(job.needs),
        needed,
        _waits_for(job, plainly=plainly).value,
        job.spec.priority,
        _more(job),
    )


def _waits_for(job: NewJob, *, plainly: bool) -> Waiting:
    if job.stage_index or not plainly:
        return Waiting.STAGE
    return Waiting.NEEDS if job.needs else Waiting.NOTHING


def _more(job: NewJob) -> str | None:
    """Return what only few jobs have, as one document; None for those that have nothing of it."""
    spec = job.spec
    more = {
        "matrix": dict(job.cell),
        "condition": spec.when,
        "allow_failure": spec.allow_failure,
        "output_texts": dict(spec.outputs),
    }
    if spec.concurrency:
        more["concurrency"] = spec.concurrency
        more |= {"concurrency_limit": spec.concurrency_limit, "cancel_in_progress": spec.cancel_in_progress}
    if spec.retry:
        more |= {"retry": retry_to_json(spec.retry), "retries_left": spec.retry.max_attempts - 1}
    if spec.approval:
        more |= {"gate": GateState.REQUIRED.value, "approval": approval_to_json(spec.approval)}
    if spec.notify:
        more["notify"] = notify_to_json(spec.notify)
    if spec.target:
        more["target"] = {"type": spec.target.type, "name": spec.target.config.get("name", "")}
    present = {key: value for key, value in more.items() if value}
    return json.dumps(present) if present else None


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
        step.condition,
        step.kind,
        json.dumps(step.templates.to_json()) if step.templates else None,
        json.dumps(dict(step.secrets)) if step.secrets else None,
    )


def _events(run: NewRun, queued: Collection[UUID], *, plainly: bool) -> list[Event]:
    by = run.trigger.triggered_by
    created = [Event(Resource.RUN, run.pipeline_id, run.id, None, None, None, "PENDING", None, len(run.jobs), actor=by)]
    for job in run.jobs:
        reason = _waits_for(job, plainly=plainly).value
        created.append(
            Event(
                Resource.JOB,
                run.pipeline_id,
                run.id,
                job.id,
                None,
                None,
                "PENDING",
                None,
                len(job.steps),
                actor=by,
                waiting=reason or "queue",
            )
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
                waiting="agent" if step.id in queued else reason or "previous_step",
            )
            for step in job.steps
        ]
    return created


def _columns(rows: Iterable[tuple[Any, ...]], width: int = 0) -> list[list[Any]]:
    """Return the columns of rows; `width`: how many there are when there is no row."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
