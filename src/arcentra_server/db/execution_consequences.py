"""Write what only some changes of a ledger bring: rendered steps, keys, gates, attempts, notifications, deployments.

Each is a statement of its own that the common change, a step that starts or ends, does not pay for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from arcentra_server.db import notifications
from arcentra_server.db.engine import Tx, new_id
from arcentra_server.domain.execution import OWN, StepState
from arcentra_server.domain.ledger import Ledger

TOLD, OF_RUN = " told", " of-run"
"""What is stored behind the pin of a source step that was told the commit, and of one that clones what its run is about.

Of `OWN` this is known without."""

_RENDERED = """
    UPDATE step_runs s SET rendered = c.rendered, pin = c.pin
      FROM unnest($1::uuid[], $2::bytea[], $3::text[]) AS c(id, rendered, pin) WHERE s.id = c.id
"""
_JOBS = """
    UPDATE job_runs j
       SET failure_reason = c.failure_reason, open_needs = c.open_needs, upstream = c.upstream, walled = c.walled,
           retries_left = c.retries_left, attempt = c.attempt, closing = c.closing, gate = c.gate,
           waits_for = c.waits_for, outputs = CASE WHEN c.outputs IS NULL THEN j.outputs ELSE c.outputs::jsonb END
      FROM unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::bool[], $6::int[], $7::int[], $8::text[],
                  $9::text[], $10::text[], $11::text[])
           AS c(id, failure_reason, open_needs, upstream, walled, retries_left, attempt, closing, gate, waits_for, outputs)
     WHERE j.id = c.id
"""
_RUNS = """
    UPDATE pipeline_runs r
       SET timed_out = c.timed_out, rejected = c.rejected, commit_sha = c.commit_sha, pins = c.pins::jsonb
      FROM unnest($1::uuid[], $2::bool[], $3::bool[], $4::text[], $5::text[]) AS c(id, timed_out, rejected, commit_sha, pins)
     WHERE r.id = c.id
"""
_CLAIM_KEYS = """
    INSERT INTO concurrency_claims (job_run_id, run_id, namespace, key, job_index, most, cancel_in_progress)
    SELECT j.id, j.run_id, r.namespace, j.concurrency, j.job_index, j.concurrency_limit, j.cancel_in_progress
      FROM job_runs j JOIN pipeline_runs r ON r.id = j.run_id WHERE j.id = ANY($1)
"""
_RELEASE_KEYS = "DELETE FROM concurrency_claims WHERE job_run_id = ANY($1)"
# The rules of the gate are those of the definition that the run keeps; the commit is that of the run as it is now.
_GATES = """
    INSERT INTO approvals (id, run_id, pipeline_id, stage_index, job_run_id, needed, approvers, separation, spec_digest,
                           commit_sha, expires_at)
    SELECT c.id, r.id, r.pipeline_id, c.stage_index, c.job_run_id, coalesce((g.approval->>'needed')::int, 1),
           coalesce(g.approval->'approvers', '[]'), coalesce((g.approval->>'separation')::bool, false), s.digest,
           r.commit_sha, clock_timestamp() + (g.approval->>'timeout_ms')::bigint * interval '1 ms'
      FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::uuid[]) AS c(id, run_id, stage_index, job_run_id)
      JOIN pipeline_runs r ON r.id = c.run_id
      JOIN pipeline_specs s ON s.pipeline_id = r.pipeline_id AND s.version = r.spec_version
     CROSS JOIN LATERAL (
           SELECT t.approval FROM run_stages t WHERE t.run_id = c.run_id AND t.stage_index = c.stage_index
           UNION ALL SELECT j.approval FROM job_runs j WHERE j.id = c.job_run_id) g
"""
_DROP_GATES = """
    UPDATE approvals a SET state = 'CANCELLED', decided_at = clock_timestamp()
      FROM unnest($1::uuid[], $2::int[], $3::uuid[]) AS c(run_id, stage_index, job_run_id)
     WHERE a.run_id = c.run_id AND a.state = 'PENDING'
       AND a.stage_index IS NOT DISTINCT FROM c.stage_index AND a.job_run_id IS NOT DISTINCT FROM c.job_run_id
"""
_DEPLOYED = """
    INSERT INTO deployments (id, namespace, pipeline_id, run_id, job_run_id, step_run_id, type, target, commit_sha, status,
                             triggered_by)
    SELECT c.id, r.namespace, r.pipeline_id, r.id, j.id, s.id, j.target->>'type',
           coalesce(nullif(j.target->>'name', ''), nullif(j.definition_name, ''), j.name), r.commit_sha, c.status,
           r.triggered_by
      FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS c(id, step_run_id, status)
      JOIN step_runs s ON s.id = c.step_run_id
      JOIN job_runs j ON j.id = s.job_run_id
      JOIN pipeline_runs r ON r.id = s.run_id
"""


async def write_turns(tx: Tx, ledger: Ledger) -> None:
    """Write what was evaluated of steps whose turn came, before they are leased."""
    steps = [ledger.steps[step_id] for step_id in ledger.pinned | ledger.rendered.keys()]
    if steps:
        rows = ((step.id, ledger.rendered.get(step.id), _stored_pin(step)) for step in steps)
        await tx.execute(_RENDERED, *_columns(rows))


def _stored_pin(step: StepState) -> str:
    return step.pin + OF_RUN * (step.of_run and step.pin != OWN) + TOLD * step.told


async def write_consequences(tx: Tx, ledger: Ledger) -> None:
    """Write everything else, after the states: gates read the run and its jobs as they are now."""
    if ledger.extended_jobs or ledger.job_outputs:
        await tx.execute(_JOBS, *_columns(_job_rows(ledger)))
    if ledger.extended_runs:
        await tx.execute(_RUNS, *_columns(_run_rows(ledger)))
    if ledger.released_keys:
        await tx.execute(_RELEASE_KEYS, ledger.released_keys)
    if ledger.claimed_keys:
        await tx.execute(_CLAIM_KEYS, [one for one in ledger.claimed_keys if one not in ledger.released_keys])
    if ledger.new_gates:
        gates = ((new_id(), gate.run_id, gate.stage_index, gate.job_id) for gate in ledger.new_gates)
        await tx.execute(_GATES, *_columns(gates))
    if ledger.dropped_gates:
        dropped = ((gate.run_id, gate.stage_index, gate.job_id) for gate in ledger.dropped_gates)
        await tx.execute(_DROP_GATES, *_columns(dropped))
    if ledger.deployed:
        ended = ((new_id(), step_id, ledger.steps[step_id].status.value) for step_id in ledger.deployed)
        await tx.execute(_DEPLOYED, *_columns(ended))
    if ledger.notices:
        await notifications.enqueue(tx, [(new_id(), *notice) for notice in ledger.notices])


def _job_rows(ledger: Ledger) -> Iterable[tuple[Any, ...]]:
    for job_id in ledger.extended_jobs | ledger.job_outputs.keys():
        job, outputs = ledger.jobs[job_id], ledger.job_outputs.get(job_id)
        yield (
            job.id,
            job.failure_reason.value if job.failure_reason else None,
            job.open_needs,
            job.upstream.value,
            job.walled,
            job.retries_left,
            job.attempt,
            job.closing.value,
            job.gate.value,
            job.waits_for.value,
            json.dumps(dict(outputs)) if outputs is not None else None,
        )


def _run_rows(ledger: Ledger) -> Iterable[tuple[Any, ...]]:
    for run_id in ledger.extended_runs:
        run = ledger.runs[run_id]
        yield run.id, run.timed_out, run.rejected, run.commit_sha, json.dumps(run.pins)


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
