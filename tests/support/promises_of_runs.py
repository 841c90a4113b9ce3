"""Promises about runs and what is shared between them: P1, P7, P8, P10, P12, P14."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import Any
from uuid import UUID

from arcentra_server.domain.ledger_repairs import REPAIRED
from arcentra_server.domain.selectors import Selector
from tests.support.fault_evidence import Evidence, grouped
from tests.support.fault_history import Call

_ANSWERS = 3  # of the server, within which an agent is told of a cancel
_CANCELLED = {"CANCELLED", "TIMEOUT", "SKIPPED"}


def nothing_lost(seen: Evidence) -> Iterator[str]:
    """P1: what was acknowledged is there, and has ended, or waits for a reason that can be named."""
    runs = {str(run_id): row for run_id, row in seen.by_id["pipeline_runs"].items()}
    for call in seen.history.of("trigger"):
        if call.subject not in runs:
            yield f"run {call.subject} was acknowledged, and there is none"
    jobs, queue = grouped(seen.rows["job_runs"], "run_id"), grouped(seen.rows["step_queue"], "run_id")
    gates = {row["run_id"] for row in seen.rows["approvals"] if row["state"] == "PENDING"}
    held = Counter(
        (row["namespace"], row["key"]) for row in seen.rows["concurrency_claims"] if row["place"] is not None
    )
    steps = grouped(seen.rows["step_runs"], "run_id")
    for run in seen.rows["pipeline_runs"]:
        waits = (
            run["finished_at"] is not None
            or run["paused"]
            or run["id"] in gates
            or any(_key_is_held(job, held[run["namespace"], job["concurrency"]]) for job in jobs[run["id"]])
            or any(_nobody_takes(seen, entry) for entry in queue.get(run["id"], ()))
        )
        if not waits:
            left = [f"{step['name']} {step['status']}" for step in steps[run["id"]] if step["finished_at"] is None]
            yield f"run {run['id']} ({run['status']}) is stuck, and nothing says why: {left}"
    for step in seen.rows["step_runs"] if seen.history.keeps_leases else ():
        if step["failure_reason"] == "agent_lost":
            yield f"step run {step['id']} failed as lost, and its agent had done nothing for which to take it for lost"


def keys_respected(seen: Evidence) -> Iterator[str]:
    """P7: never more jobs of a key run than it has places, at any event."""
    running: Counter[tuple[str, str]] = Counter()
    inside: set[Any] = set()
    for event in seen.events:
        job = seen.by_id["job_runs"].get(event["job_run_id"])
        if event["resource"] != "job" or job is None or not job["concurrency"]:
            continue
        key = (seen.by_id["pipeline_runs"][job["run_id"]]["namespace"], job["concurrency"])
        if event["status"] == "RUNNING" and job["id"] not in inside:
            inside.add(job["id"])
            running[key] += 1
            if running[key] > job["concurrency_limit"]:
                yield f"{running[key]} jobs of key {key[1]} run at event {event['id']}, job run {job['id']} the last"
        elif event["status"] != "RUNNING" and job["id"] in inside:
            inside.discard(job["id"])
            running[key] -= 1


def gates_hold(seen: Evidence) -> Iterator[str]:
    """P8: nothing behind a gate is leased before it was approved by as many as it needs."""
    votes = grouped(seen.rows["approval_votes"], "approval_id")
    approved = [row for row in seen.rows["approvals"] if row["state"] == "APPROVED"]
    for row in approved:
        if sum(vote["approved"] for vote in votes.get(row["id"], ())) < row["needed"]:
            yield f"approval {row['id']} is APPROVED, with {votes.get(row['id'], ())}"
    gates = {(row["run_id"], row["stage_index"]) for row in seen.rows["run_stages"] if row["gate"]}
    opened = {
        gate: min((row["decided_at"] for row in approved if (row["run_id"], row["stage_index"]) == gate), default=None)
        for gate in gates
    }
    leases = seen.leases_of()
    for step in seen.rows["step_runs"]:
        stage = seen.by_id["job_runs"][step["job_run_id"]]["stage_index"]
        for gate in [(run_id, index) for run_id, index in gates if run_id == step["run_id"] and index <= stage]:
            for lease in leases.get(step["id"], ()):
                if opened[gate] is None or opened[gate] > lease["created_at"]:
                    yield f"step run {step['id']} was leased before the gate of stage {gate[1]} was approved"
    for call in seen.history.of("approve"):
        if not any(str(row["id"]) == call.subject and votes.get(row["id"]) for row in seen.rows["approvals"]):
            yield f"the vote at gate {call.subject} was acknowledged, and is not there"


def cancels_hold(seen: Evidence) -> Iterator[str]:
    """P10: what was cancelled is not leased after the answer, and ends CANCELLED unless it had ended."""
    leases = seen.leases_of()
    reopened = {call.subject for what in ("retry_run", "retry_step") for call in seen.history.of(what)}
    for what, column in (("cancel_step", "id"), ("cancel_job", "job_run_id"), ("stop_run", "run_id")):
        steps = grouped(seen.rows["step_runs"], column)
        for call in seen.history.of(what):
            if call.subject in reopened:
                continue
            for step in steps.get(UUID(call.subject), ()):
                for lease in leases.get(step["id"], ()):
                    if lease["created_at"].timestamp() > call.answered:
                        yield f"step run {step['id']} was leased after {what} of {call.subject} was acknowledged"
                if _goes_on_unasked(seen, step, call):
                    yield f"agent {step['agent_id']} was never told that {what} of {call.subject} was acknowledged"
                ended = step["finished_at"]
                if step["status"] not in _CANCELLED and (ended is None or ended.timestamp() > call.answered):
                    yield f"step run {step['id']} is {step['status']}, though {what} of {call.subject} was acknowledged"


def derived_state(seen: Evidence) -> Iterator[str]:
    """P12: the state of jobs, runs and all that counts follows from the steps, and nobody had to put that right."""
    yield from seen.inconsistent
    for event in seen.events:
        if event["message"].startswith(REPAIRED):
            subject = event["step_run_id"] or event["job_run_id"] or event["run_id"]
            yield f"{event['resource']} {subject} was {event['message']} (event {event['id']})"


def bounded(seen: Evidence, *, most_connections: int = 16) -> Iterator[str]:
    """P14: nothing is left of what has ended: no place in the queue, no lease, no key; connections and leases are few."""
    if seen.connections > most_connections:
        yield f"{seen.connections} connections to the database, at most {most_connections} are in order"
    ended_runs = {row["id"] for row in seen.rows["pipeline_runs"] if row["finished_at"] is not None}
    ended_jobs = {row["id"] for row in seen.rows["job_runs"] if row["finished_at"] is not None}
    ended_steps = {row["id"] for row in seen.rows["step_runs"] if row["finished_at"] is not None}
    for entry in seen.rows["step_queue"]:
        if entry["run_id"] in ended_runs:
            yield f"step run {entry['step_run_id']} is in the queue, and its run has ended"
    for lease in seen.rows["leases"]:
        if lease["ended_at"] is None and lease["step_run_id"] in ended_steps:
            yield f"lease {lease['id']} is open, and its step run has ended"
    for claim in seen.rows["concurrency_claims"]:
        if claim["job_run_id"] in ended_jobs:
            yield f"key {claim['key']} is claimed by job run {claim['job_run_id']}, which has ended"
    yield from _overcommitted(seen)


def _overcommitted(seen: Evidence) -> Iterator[str]:
    """Yield the agents that held more leases at a time than they have slots."""
    for agent_id, leases in grouped(seen.rows["leases"], "agent_id").items():
        agent = seen.by_id["agents"][agent_id]
        changes = [(lease["created_at"], 1) for lease in leases]
        changes += [(lease["ended_at"], -1) for lease in leases if lease["ended_at"] is not None]
        most = max(accumulate(change for _, change in sorted(changes)))
        if most > agent["capacity"]:
            yield f"agent {agent['name']} held {most} leases at a time, and has {agent['capacity']} slots"


def _goes_on_unasked(seen: Evidence, step: dict[str, Any], call: Call) -> bool:
    """Answer whether a process came to its end by itself though the server had answered its agent since the cancel."""
    name, end = next(
        ((name, line) for name, line in seen.lines("end") if line["step"] == str(step["id"])), (None, None)
    )
    if name is None or end is None or end["why"] != "done":
        return False
    lines = seen.journals[name]
    told = any(line["kind"] == "told" and line["step"] == end["step"] for line in lines)
    answers = sum(line["kind"] == "heard" and call.answered - seen.booted < line["at"] < end["at"] for line in lines)
    return not told and answers >= _ANSWERS


def _key_is_held(job: dict[str, Any], holders: int) -> bool:
    """Answer whether a job waits for its key, and others have all places of it."""
    return bool(job["waits_for"] == "concurrency" and holders >= job["concurrency_limit"])


def _nobody_takes(seen: Evidence, entry: dict[str, Any]) -> bool:
    """Answer whether no agent that is there takes a step run of the queue: that is a reason to wait."""
    documents = {row["id"]: row["document"] for row in seen.rows["selectors"]}
    selector = Selector.from_json(documents[entry["selector_id"]])
    there = [row for row in seen.rows["agents"] if row["deleted_at"] is None and row["status"] != "OFFLINE"]
    if entry["agent_id"] is not None:
        there = [row for row in there if row["id"] == entry["agent_id"]]
    return not any(selector.matches({**row["claimed_labels"], **row["server_labels"]}) for row in there)
