"""Store a new run: its stages, jobs, steps, queue rows and events, one set-based statement each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from arcentra_server.db import events
from arcentra_server.db.engine import Tx
from arcentra_server.domain.execution import Event, Resource
from arcentra_server.domain.instantiate import NewRun, NewStep
from arcentra_server.domain.selectors import Selector
from arcentra_server.domain.states import StepStatus

_RUN = """
    INSERT INTO pipeline_runs (id, pipeline_id, namespace, spec_version, trigger_type, triggered_by, branch, commit_sha,
                               variables, request_id, stage_count, total_jobs)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT (pipeline_id, request_id) WHERE request_id IS NOT NULL DO NOTHING
"""
_STAGES = """
    INSERT INTO run_stages (run_id, stage_index, name, open_jobs)
    SELECT $1, * FROM unnest($2::int[], $3::text[], $4::int[])
"""
_JOBS = """
    INSERT INTO job_runs (run_id, pipeline_id, id, name, stage_index, job_index, selector_id, timeout_ms, total_steps)
    SELECT $1, $2, * FROM unnest($3::uuid[], $4::text[], $5::int[], $6::int[], $7::int[], $8::bigint[], $9::int[])
"""
_STEPS = """
    INSERT INTO step_runs (run_id, pipeline_id, created_by, id, job_run_id, name, step_index, status, selector_id,
                           own_selector, continue_on_error, timeout_ms, dispatch)
    SELECT $1, $2, $3, * FROM unnest($4::uuid[], $5::uuid[], $6::text[], $7::int[], $8::text[], $9::int[], $10::bool[],
                                     $11::bool[], $12::bigint[], $13::bytea[])
"""
_QUEUE = """
    INSERT INTO step_queue (run_id, step_run_id, selector_id) SELECT $1, * FROM unnest($2::uuid[], $3::int[])
"""


async def ensure_selectors(tx: Tx, selectors: Iterable[Selector]) -> dict[Selector, int]:
    """Return the ids of selectors, storing those that are new. Equal selectors share one id, whoever wrote them."""
    documents: dict[bytes, list[Any]] = {}
    digests: dict[Selector, bytes] = {}
    for selector in set(selectors):
        document = selector.to_json()
        digest = hashlib.sha256(json.dumps(document, separators=(",", ":")).encode()).digest()
        digests[selector], documents[digest] = digest, document
    known = await _selector_ids(tx, list(documents))
    missing = [digest for digest in sorted(documents) if digest not in known]
    if missing:
        await tx.execute(
            """INSERT INTO selectors (digest, document) SELECT c.digest, c.document::jsonb
                 FROM unnest($1::bytea[], $2::text[]) AS c(digest, document) ON CONFLICT DO NOTHING""",
            missing,
            [json.dumps(documents[digest]) for digest in missing],
        )
        known = await _selector_ids(tx, list(documents))
    return {selector: known[digest] for selector, digest in digests.items()}


async def _selector_ids(tx: Tx, digests: Sequence[bytes]) -> dict[bytes, int]:
    rows = await tx.fetch("SELECT digest, id FROM selectors WHERE digest = ANY($1)", digests)
    return {row["digest"]: row["id"] for row in rows}


async def insert(tx: Tx, run: NewRun, dispatches: Mapping[UUID, bytes]) -> bool:
    """Store a run; False, and nothing stored, when the pipeline has a run of the same request id already.

    Args:
        tx: The transaction.
        run: The run.
        dispatches: The wire form of each step run, by its id.
    """
    trigger = run.trigger
    done = await tx.execute(
        _RUN,
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
    if done != "INSERT 0 1":
        return False
    ids = await ensure_selectors(tx, [step.selector for _, step in run.steps()] + [job.selector for job in run.jobs])
    names, sizes = zip(*run.stages, strict=True)
    await tx.execute(_STAGES, run.id, list(range(len(run.stages))), list(names), list(sizes))
    jobs = [
        (job.id, job.name, job.stage_index, job.index, ids[job.selector], job.timeout_ms, len(job.steps))
        for job in run.jobs
    ]
    await tx.execute(_JOBS, run.id, run.pipeline_id, *_columns(jobs))
    queued = [job.steps[0] for job in run.jobs if job.stage_index == 0]
    first = {step.id for step in queued}
    steps = [_step_row(step, ids, dispatches[step.id], queued=step.id in first) for _, step in run.steps()]
    await tx.execute(_STEPS, run.id, run.pipeline_id, trigger.triggered_by, *_columns(steps))
    await tx.execute(_QUEUE, run.id, *_columns((step.id, ids[step.selector]) for step in queued))
    await events.append(tx, _events(run, first))
    return True


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
