"""What expressions of a job and its steps are evaluated over, as it stands in the transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.domain import rollup
from arcentra_server.domain.execution import NeedEnd
from arcentra_server.domain.expressions import Context, Outcome
from arcentra_server.domain.instantiate import COMMIT_VARIABLE, run_env
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.ledger_turns import end_of
from arcentra_server.domain.states import GateState, RunStatus, StepStatus

_JOBS = """
    SELECT j.id, j.run_id, j.name, coalesce(nullif(j.definition_name, ''), j.name) AS definition_name, j.matrix,
           j.attempt, j.status, t.name AS stage, r.variables, r.branch, r.commit_sha, r.event, r.namespace, r.trigger_type,
           r.triggered_by, r.pipeline_id, p.name AS pipeline
      FROM job_runs j
      JOIN run_stages t ON t.run_id = j.run_id AND t.stage_index = j.stage_index
      JOIN pipeline_runs r ON r.id = j.run_id
      JOIN pipelines p ON p.id = r.pipeline_id
     WHERE j.id = ANY($1)
"""
_EDGES = "SELECT job_run_id, needed_id FROM job_needs WHERE job_run_id = ANY($1)"
# Each once, however many depend on it; the outputs of those ($2) that are asked for.
_NEEDED = """
    SELECT id, coalesce(nullif(definition_name, ''), name) AS name, status, upstream, walled, allow_failure, gate,
           CASE WHEN id = ANY($2) THEN outputs ELSE '{}' END AS outputs
      FROM job_runs WHERE id = ANY($1) ORDER BY job_index
"""
_STEPS = """
    SELECT id, job_run_id, name, status, outputs FROM step_runs
     WHERE job_run_id = ANY($1) AND NOT superseded ORDER BY job_run_id, step_index
"""


@dataclass(frozen=True, slots=True)
class Need:
    """A job that another one depends on, as it ended."""

    name: str
    status: RunStatus
    end: NeedEnd
    outputs: Mapping[str, str]


@dataclass(slots=True)
class JobFacts:
    """What there is to say of one job."""

    row: Row
    attempt: int
    needs: Sequence[Need] = ()
    needs_by_name: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)

    def context(
        self, outcome: Outcome, commit: str, *, env: Mapping[str, str] | None = None, step: str = ""
    ) -> Context:
        """Return what expressions are evaluated over; `env` None: that which all steps of the run share."""
        row = self.row
        shared = run_env(row["variables"], row["branch"], commit, row["namespace"])
        own = dict(env or {})
        if not own.get(COMMIT_VARIABLE):
            # It was stored before a clone decided the commit.
            own.pop(COMMIT_VARIABLE, None)
        return Context(
            variables=row["variables"],
            env={**shared, **own},
            branch=row["branch"],
            commit=commit,
            run={
                "id": str(row["run_id"]),
                "pipeline_id": str(row["pipeline_id"]),
                "pipeline": row["pipeline"],
                "namespace": row["namespace"],
                "trigger": row["trigger_type"].lower(),
                "triggered_by": row["triggered_by"],
            },
            job={
                "id": str(row["id"]),
                "name": row["name"],
                "definition_name": row["definition_name"],
                "stage": row["stage"],
                "attempt": str(self.attempt),
            },
            step={"name": step},
            needs=self.needs_by_name,
            steps=self.steps,
            matrix=row["matrix"],
            event=row["event"],
            outcome=outcome,
        )


async def load_facts(
    tx: Tx, ledger: Ledger, job_ids: Collection[UUID], *, naming_needs: Collection[UUID]
) -> dict[UUID, JobFacts]:
    """Return what there is to say of jobs; what the ledger knows goes before what is stored.

    `naming_needs`: those of them whose expressions may name the outputs of what they depend on; others get none.
    """
    ids = list(job_ids)
    if not ids:
        return {}
    facts = {}
    for row in await tx.fetch(_JOBS, ids):
        known = ledger.jobs.get(row["id"])
        facts[row["id"]] = JobFacts(row, known.attempt if known else row["attempt"])
    await _add_needs(tx, ledger, facts, naming_needs)
    for row in await tx.fetch(_STEPS, ids):
        step = ledger.steps.get(row["id"])
        status = step.status if step else StepStatus(row["status"])
        outputs = (step.outputs if step else None) or row["outputs"]
        facts[row["job_run_id"]].steps[row["name"]] = {"result": status.value.lower(), "outputs": outputs}
    return facts


async def _add_needs(tx: Tx, ledger: Ledger, facts: Mapping[UUID, JobFacts], naming: Collection[UUID]) -> None:
    """Add what jobs depend on, in the order of the definition. Jobs that depend on the same share it."""
    needed: dict[UUID, set[UUID]] = {}
    for edge in await tx.fetch(_EDGES, list(facts)):
        needed.setdefault(edge["job_run_id"], set()).add(edge["needed_id"])
    if not needed:
        return
    wanted = set().union(*(needed.get(job_id, ()) for job_id in naming))
    rows = await tx.fetch(_NEEDED, list(set().union(*needed.values())), list(wanted))
    needs = {row["id"]: _need(row, ledger, with_outputs=row["id"] in wanted) for row in rows}
    place = {need_id: number for number, need_id in enumerate(needs)}
    shared: dict[frozenset[UUID], tuple[Sequence[Need], Mapping[str, Mapping[str, Any]]]] = {}
    for job_id, ids in needed.items():
        key = frozenset(ids)
        if key not in shared:
            own = [needs[need_id] for need_id in sorted(ids, key=place.__getitem__)]
            shared[key] = own, _by_name(own)
        facts[job_id].needs, facts[job_id].needs_by_name = shared[key]


def _by_name(needs: Iterable[Need]) -> dict[str, dict[str, Any]]:
    """Return needs by name; the cells of a matrix are one need: its gravest end, the outputs of all."""
    ends: dict[str, RunStatus] = {}
    outputs: dict[str, dict[str, str]] = {}
    for need in needs:
        ends[need.name] = _graver_end(need.status, ends[need.name]) if need.name in ends else need.status
        outputs.setdefault(need.name, {}).update(need.outputs)
    return {name: {"result": status.value.lower(), "outputs": outputs[name]} for name, status in ends.items()}


async def job_context(tx: Tx, job_run_id: UUID) -> Context | None:
    """Return what the expressions of a notification about a job are evaluated over; None: there is no such job."""
    facts = (await load_facts(tx, Ledger.empty(), [job_run_id], naming_needs=[job_run_id])).get(job_run_id)
    if facts is None:
        return None
    status = RunStatus(facts.row["status"])
    # It may run again before somebody is told how it ended.
    outcome = outcome_of(status) if status.terminal else Outcome.SUCCESS
    return facts.context(outcome, facts.row["commit_sha"])


def outcome_of(status: RunStatus) -> Outcome:
    """Return how things stand, for `success()` and its like, after the gravest end so far."""
    if status is RunStatus.CANCELLED:
        return Outcome.CANCELLED
    return Outcome.FAILURE if rollup.blocks(status) else Outcome.SUCCESS


def _graver_end(one: RunStatus, other: RunStatus) -> RunStatus:
    """Return how the cells of a matrix stand together: what has not ended is looked at, too, when a job is cancelled."""
    for status in (one, other):
        if not status.terminal:
            return status
    return rollup.graver(one, other)


def _need(row: Row, ledger: Ledger, *, with_outputs: bool) -> Need:
    known = ledger.jobs.get(row["id"])
    if known is not None and known.status.terminal:
        outputs = ledger.job_outputs.get(row["id"], row["outputs"]) if with_outputs else row["outputs"]
        return Need(row["name"], known.status, end_of(known), outputs)
    status, gate = RunStatus(row["status"]), GateState(row["gate"])
    rejected = gate is GateState.REJECTED
    contribution = rollup.job_contribution(status, allow_failure=row["allow_failure"] and not rejected)
    end = NeedEnd(contribution, RunStatus(row["upstream"]), status is RunStatus.SKIPPED, row["walled"] or rejected)
    return Need(row["name"], status, end, row["outputs"])
