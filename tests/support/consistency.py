"""What must hold of the rows at any commit, counted afresh from the steps up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.domain import rollup
from arcentra_server.domain.states import RUN_FAILURES, STEP_FAILURES, RunStatus, StepStatus

_ACTIVE = {StepStatus.QUEUED, StepStatus.RUNNING}
_OPEN_LEASES = "SELECT id, step_run_id, agent_id FROM leases WHERE ended_at IS NULL"
_EVENTS = """
    SELECT resource, coalesce(step_run_id, job_run_id, run_id, agent_id) AS id, status, previous_status
      FROM events ORDER BY events.id
"""
_STATES = """
    SELECT 'step' AS resource, id, status FROM step_runs UNION ALL SELECT 'job', id, status FROM job_runs
    UNION ALL SELECT 'run', id, status FROM pipeline_runs UNION ALL SELECT 'agent', id, status FROM agents
"""


async def check_consistent(tx: Tx) -> None:
    """Fail with everything that does not fit together."""
    rows = await _Rows.load(tx)
    problems = [
        *_steps(rows),
        *_queue(rows),
        *_jobs(rows),
        *_needs(rows),
        *_runs(rows),
        *_gates(rows),
        *_keys(rows),
        *_pipelines(rows),
        *_agents(rows),
        *await _events(tx),
    ]
    assert not problems, "\n".join(problems)


class _Rows:
    """All rows, by what they belong to."""

    def __init__(self, tables: dict[str, list[Row]]) -> None:
        self.agents = tables["agents"]
        self.pipelines = tables["pipelines"]
        self.runs = {row["id"]: row for row in tables["pipeline_runs"]}
        self.stages = {(row["run_id"], row["stage_index"]): row for row in tables["run_stages"]}
        self.jobs = _grouped(tables["job_runs"], "run_id")
        self.steps = {row["id"]: row for row in tables["step_runs"]}
        self.queue = {row["step_run_id"]: row for row in tables["step_queue"]}
        self.leases = {row["step_run_id"]: row for row in tables["leases"]}
        self.needs = _grouped(tables["job_needs"], "job_run_id")
        self.claims = {row["job_run_id"]: row for row in tables["concurrency_claims"]}
        self.approvals = [row for row in tables["approvals"] if row["state"] == "PENDING"]
        self._last = _grouped([row for row in tables["step_runs"] if not row["superseded"]], "job_run_id")

    @classmethod
    async def load(cls, tx: Tx) -> _Rows:
        execution = ("pipeline_runs", "run_stages", "job_runs", "job_needs", "step_runs", "step_queue")
        names = (*execution, "agents", "pipelines", "concurrency_claims", "approvals")
        tables = {name: await tx.fetch(f"SELECT * FROM {name}") for name in names}  # noqa: S608 - names from above
        return cls({**tables, "leases": await tx.fetch(_OPEN_LEASES)})

    def last_attempts(self, job_id: UUID) -> list[Row]:
        return sorted(self._last.get(job_id, []), key=lambda row: row["step_index"])


def _grouped(rows: Sequence[Row], key: str) -> dict[UUID, list[Row]]:
    groups: dict[UUID, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return groups


def _steps(rows: _Rows) -> Iterator[str]:
    for step in rows.steps.values():
        name, status = f"step {step['name']} {step['id']} ({step['status']})", StepStatus(step["status"])
        lease, queued = rows.leases.get(step["id"]), step["id"] in rows.queue
        if status not in _ACTIVE and lease:
            yield f"{name} has an active lease"
        if status is StepStatus.QUEUED and queued == bool(lease):
            yield f"{name} is {'queued and leased' if queued else 'neither queued nor leased'}"
        if status is StepStatus.RUNNING and (not lease or lease["agent_id"] != step["agent_id"]):
            yield f"{name} runs without a lease of its agent"
        if step["superseded"] and not status.terminal:
            yield f"{name} is superseded and has not ended"


def _queue(rows: _Rows) -> Iterator[str]:
    gone = {agent["id"] for agent in rows.agents if agent["deleted_at"]}
    for step_id, entry in rows.queue.items():
        step, run = rows.steps[step_id], rows.runs[entry["run_id"]]
        if step["status"] != StepStatus.QUEUED:
            yield f"{step['status']} step {step_id} is in the queue"
        if entry["held"] != run["paused"]:
            yield f"step {step_id} is held: {entry['held']}, and its run paused: {run['paused']}"
        if entry["selector_id"] != step["selector_id"] or entry["run_id"] != step["run_id"]:
            yield f"the queue row of step {step_id} is not that of the step"
        if entry["agent_id"] in gone:
            yield f"step {step_id} waits for an agent that has left"


def _jobs(rows: _Rows) -> Iterator[str]:
    for jobs in rows.jobs.values():
        for job in jobs:
            steps = rows.last_attempts(job["id"])
            states = [StepStatus(step["status"]) for step in steps]
            ended = [step for step in steps if step["finished_at"]]
            outcome = _job_outcome(job, ended, done=len(ended) == len(steps))
            counted = {
                "total_steps": len(steps),
                "completed_steps": len(ended),
                "failed_steps": sum(state in STEP_FAILURES for state in states),
                "running_steps": states.count(StepStatus.RUNNING),
                "outcome": outcome.value,
                "status": _job_status(job, steps, states, outcome).value,
            }
            yield from _differences(f"job {job['name']} {job['id']}", job, counted)
            for place, state in enumerate(states):
                if state in _ACTIVE and not all(before.terminal for before in states[:place]):
                    yield f"step {place + 1} of job {job['id']} is {state} before its turn: {states}"


def _job_outcome(job: Row, ended: Sequence[Row], *, done: bool) -> RunStatus:
    """The gravest end of the steps; and of the job itself, when its time was over or its gate refused it."""
    outcome = rollup.job_outcome((StepStatus(step["status"]), step["continue_on_error"]) for step in ended)
    if job["gate"] == "REJECTED" or (done and job["failure_reason"] == "validation" and job["closing"] == "cancelled"):
        outcome = rollup.graver(outcome, RunStatus.FAILED)
    at_its_gate = job["gate"] == "REQUIRED" and not rollup.blocks(outcome)
    if done and job["closing"] and at_its_gate and job["status"] == RunStatus.CANCELLED:
        return RunStatus.CANCELLED
    if done and job["closing"] == "timeout":
        outcome = rollup.graver(outcome, RunStatus.TIMEOUT)
    return outcome


def _contribution(job: Row) -> RunStatus:
    tolerated = job["allow_failure"] and job["gate"] != "REJECTED"
    return rollup.job_contribution(RunStatus(job["status"]), allow_failure=tolerated)


def _needs(rows: _Rows) -> Iterator[str]:
    ended = {job["id"]: job["finished_at"] is not None for jobs in rows.jobs.values() for job in jobs}
    for jobs in rows.jobs.values():
        for job in jobs:
            open_needs = sum(not ended[need["needed_id"]] for need in rows.needs.get(job["id"], []))
            if not job["finished_at"] and job["open_needs"] != open_needs:
                yield f"job {job['name']} {job['id']}: open_needs is {job['open_needs']}, counted {open_needs}"


def _gates(rows: _Rows) -> Iterator[str]:
    """A gate that waits is asked at, and nothing is asked at another."""
    asked = {(row["run_id"], row["stage_index"], row["job_run_id"]) for row in rows.approvals}
    waiting = {(run_id, index, None) for (run_id, index), stage in rows.stages.items() if stage["gate"] == "WAITING"}
    waiting |= {
        (run_id, None, job["id"]) for run_id, jobs in rows.jobs.items() for job in jobs if job["gate"] == "WAITING"
    }
    yield from (f"gate {gate} waits, and nobody is asked" for gate in waiting - asked)
    yield from (f"gate {gate} does not wait, and somebody is asked" for gate in asked - waiting)


def _keys(rows: _Rows) -> Iterator[str]:
    jobs = {job["id"]: job for found in rows.jobs.values() for job in found}
    for job_id, claim in rows.claims.items():
        if jobs[job_id]["finished_at"]:
            yield f"job {job_id} has ended, and claims the key {claim['key']}"
    for job_id, job in jobs.items():
        active = any(StepStatus(step["status"]) in _ACTIVE for step in rows.last_attempts(job_id))
        held = job_id in rows.claims and rows.claims[job_id]["place"] is not None
        if job["concurrency"] and active and not held:
            yield f"job {job_id} runs without its key {job['concurrency']}"


def _job_status(job: Row, steps: Sequence[Row], states: Sequence[StepStatus], outcome: RunStatus) -> RunStatus:
    if job["gate"] == "WAITING":
        return RunStatus.RUNNING
    if all(state.terminal for state in states):
        return outcome
    return RunStatus.RUNNING if any(step["started_at"] for step in steps) else RunStatus.PENDING


def _runs(rows: _Rows) -> Iterator[str]:
    for run in rows.runs.values():
        jobs = rows.jobs[run["id"]]
        name = f"run {run['id']} ({run['status']})"
        ended = [job for job in jobs if RunStatus(job["status"]).terminal]
        counted = {
            "total_jobs": len(jobs),
            "completed_jobs": len(ended),
            "failed_jobs": sum(RunStatus(job["status"]) in RUN_FAILURES for job in ended),
            "running_jobs": sum(job["status"] == RunStatus.RUNNING for job in jobs),
        }
        yield from _differences(name, run, counted)
        if len(ended) == len(jobs):
            yield from _differences(name, run, {"status": _run_end(run, ended).value, "paused": False})
            continue
        yield from _open_run(rows, run, jobs, name)


def _run_end(run: Row, ended: Sequence[Row]) -> RunStatus:
    if run["stopped"]:
        return RunStatus.CANCELLED
    if run["timed_out"] or run["rejected"]:
        return RunStatus.FAILED
    return rollup.run_outcome(map(_contribution, ended))


def _open_run(rows: _Rows, run: Row, jobs: Sequence[Row], name: str) -> Iterator[str]:
    if run["finished_at"]:
        yield f"{name} has jobs that have not ended"
    if run["paused"] and run["status"] != RunStatus.PAUSED:
        yield f"{name} is paused"
    if run["status"] == RunStatus.PENDING and any(job["status"] == RunStatus.RUNNING for job in jobs):
        yield f"{name} has a running job"
    open_jobs = [job for job in jobs if not RunStatus(job["status"]).terminal]
    current = min(job["stage_index"] for job in open_jobs)
    for job in open_jobs:
        states = [StepStatus(step["status"]) for step in rows.last_attempts(job["id"])]
        waits = job["waits_for"] in ("approval", "concurrency") or job["open_needs"]
        if job["stage_index"] == current and not waits and not _ACTIVE & set(states):
            yield f"{name} is stuck: it is the turn of job {job['name']}, and nothing of it is queued or runs: {states}"
    for (run_id, index), stage in rows.stages.items():
        if run_id == run["id"]:
            counted = sum(job["stage_index"] == index for job in open_jobs)
            ended = [job for job in jobs if job["stage_index"] == index and job["finished_at"]]
            outcome = rollup.gravest(map(_contribution, ended))
            if stage["gate"] == "REJECTED":
                outcome = rollup.graver(outcome, RunStatus.FAILED)
            wanted = {"open_jobs": counted, "outcome": outcome.value}
            yield from _differences(f"stage {index} of {name}", stage, wanted)


def _pipelines(rows: _Rows) -> Iterator[str]:
    for pipeline in rows.pipelines:
        states = [run["status"] for run in rows.runs.values() if run["pipeline_id"] == pipeline["id"]]
        counted = {
            "total_runs": len(states),
            "success_runs": states.count(RunStatus.SUCCESS),
            "failed_runs": states.count(RunStatus.FAILED),
        }
        yield from _differences(f"pipeline {pipeline['name']}", pipeline, counted)


def _agents(rows: _Rows) -> Iterator[str]:
    for agent in rows.agents:
        held = sum(lease["agent_id"] == agent["id"] for lease in rows.leases.values())
        if held > agent["capacity"]:
            yield f"agent {agent['name']} holds {held} leases, with a capacity of {agent['capacity']}"
        if held and agent["deleted_at"]:
            yield f"agent {agent['name']} has left, and holds {held} leases"


async def _events(tx: Tx) -> Iterator[str]:
    """Each resource's events make a chain from its creation to its state."""
    last: dict[tuple[str, UUID], str] = {}
    problems = []
    for event in await tx.fetch(_EVENTS):
        key = event["resource"], event["id"]
        if last.get(key) != event["previous_status"]:
            problems.append(f"{key} was {last.get(key)}, its next event says {event['previous_status']}")
        last[key] = event["status"]
    for row in await tx.fetch(_STATES):
        told = last.get((row["resource"], row["id"]))
        if told != row["status"]:
            problems.append(f"{row['resource']} {row['id']} is {row['status']}, its last event says {told}")
    return iter(problems)


def _differences(name: str, row: Row, counted: Mapping[str, object]) -> Iterator[str]:
    for column, value in counted.items():
        if row[column] != value:
            yield f"{name}: {column} is {row[column]!r}, counted {value!r}"
