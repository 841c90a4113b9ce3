"""Promises about single step runs: P2, P3, P4, P9, P11, P13. Each function answers what breaks it, in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tests.support.fault_evidence import Evidence, Process, grouped

# Written down here once more, by the text of the promise, so that a wrong table in the product is found.
_NEXT = {
    None: {"PENDING", "QUEUED"},
    "PENDING": {"QUEUED", "SKIPPED", "CANCELLED", "FAILED"},
    "QUEUED": {"RUNNING", "CANCELLED", "TIMEOUT", "SKIPPED", "FAILED"},
    "RUNNING": {"SUCCESS", "FAILED", "CANCELLED", "TIMEOUT"},
}
_FINAL = {"SUCCESS", "FAILED", "CANCELLED", "TIMEOUT", "SKIPPED"}


def one_outcome(seen: Evidence) -> Iterator[str]:
    """P2: a step run ends once, and as the one report said that was accepted."""
    ends: dict[Any, list[str]] = defaultdict(list)
    for event in _step_events(seen):
        if event["status"] in _FINAL:
            ends[event["step_run_id"]].append(event["status"])
    for step_id, told in ends.items():
        if len(told) > 1:
            yield f"step run {step_id} ended more than once: {told}"
    yield from _accepted_otherwise(seen)


def _accepted_otherwise(seen: Evidence) -> Iterator[str]:
    """Yield the step runs that did not end as the one report said that was accepted."""
    accepted: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for _, line in seen.lines("verdict"):
        if line["accepted"] and line["status"] != "RUNNING":
            accepted[line["step"]].add((line["lease"], line["status"]))
    steps = {str(step_id): row for step_id, row in seen.by_id["step_runs"].items()}
    for step_id, reports in accepted.items():
        if len({lease for lease, _ in reports}) > 1:
            yield f"ends of step run {step_id} were accepted under several leases: {sorted(reports)}"
        row = steps.get(step_id)
        if row is None:
            yield f"the end of step run {step_id} was accepted, and there is none"
        elif row["cancel_cause"] is None and row["status"] not in {status for _, status in reports}:
            yield f"step run {step_id} is {row['status']}; what was accepted is {sorted(reports)}"


def one_lease(seen: Evidence) -> Iterator[str]:
    """P3: the leases of a step run follow one another."""
    for step_id, leases in seen.leases_of().items():
        for first, second in pairwise(leases):
            if first["ended_at"] is None or first["ended_at"] > second["created_at"]:
                yield f"leases {first['id']} and {second['id']} of step run {step_id} overlap"


def start_rule(seen: Evidence) -> Iterator[str]:
    """P4: a process starts once for a step run, after RUNNING was accepted, and not beside another attempt of its job."""
    running = {str(event["step_run_id"]) for event in _step_events(seen) if event["status"] == "RUNNING"}
    leases = {str(row["id"]): row for row in seen.rows["leases"]}
    by_step: dict[str, list[Process]] = defaultdict(list)
    for process in seen.processes:
        by_step[process.step].append(process)
        if process.step not in running:
            yield f"a process of step run {process.step} started, and the server never took it for RUNNING"
        if process.lease not in leases:
            yield f"a process of step run {process.step} started under lease {process.lease}, which does not exist"
    for step_id, processes in by_step.items():
        if len(processes) > 1:
            yield f"step run {step_id} was started {len(processes)} times: leases {[one.lease for one in processes]}"
    for job, overlap in _overlaps(seen):
        yield f"two processes of job run {job} ran at the same time: {overlap}"


def legal_transitions(seen: Evidence) -> Iterator[str]:
    """P9: the events of a step run tell legal transitions only, and the last one tells its state."""
    last: dict[Any, str | None] = {}
    for event in _step_events(seen):
        step_id, status = event["step_run_id"], event["status"]
        before = last.get(step_id)
        if status not in _NEXT.get(before, set()) and not (status == before == "QUEUED"):
            yield f"step run {step_id} went from {before} to {status}"
        if event["previous_status"] != before:
            yield f"step run {step_id} was {before}, its next event says {event['previous_status']}"
        last[step_id] = status
    for step_id, row in seen.by_id["step_runs"].items():
        if step_id in last and last[step_id] != row["status"]:
            yield f"step run {step_id} is {row['status']}, its last event says {last[step_id]}"


def order_in_job(seen: Evidence) -> Iterator[str]:
    """P11: a step of a job is leased after the one before it has ended, to the agent that has their workspace."""
    leases = seen.leases_of()
    for (job, attempt), steps in _attempts(seen).items():
        for first, second in pairwise(steps):
            for lease in leases.get(second["id"], ())[:1]:
                if first["finished_at"] is None or first["finished_at"] > lease["created_at"]:
                    yield (
                        f"step {second['step_index']} of job run {job}, attempt {attempt}, was leased before step"
                        f" {first['step_index']} had ended"
                    )
        agents = {step["agent_id"] for step in steps if step["started_at"] and not step["own_selector"]}
        if len(agents) > 1:
            yield f"attempt {attempt} of job run {job} ran on several agents, without its workspace: {sorted(agents)}"


def server_time(seen: Evidence) -> Iterator[str]:
    """P13: times are the server's, whatever agents take for the time; they go forward, and lie in the test."""
    for row in seen.rows["step_runs"]:
        times = [row[name] for name in ("created_at", "started_at", "finished_at") if row[name] is not None]
        if times != sorted(times):
            yield f"the times of step run {row['id']} do not go forward: {[str(at) for at in times]}"
        for at in times:
            if not seen.history.begun - 60 <= at.timestamp() <= seen.now + 1:
                yield f"step run {row['id']} has a time outside of the test: {at}"


def _step_events(seen: Evidence) -> list[dict[str, Any]]:
    return [event for event in seen.events if event["resource"] == "step"]


def _attempts(seen: Evidence) -> dict[tuple[Any, int], list[dict[str, Any]]]:
    """Return the steps of each attempt at each job, in order."""
    groups: dict[tuple[Any, int], list[dict[str, Any]]] = {}
    for job, steps in grouped(seen.rows["step_runs"], "job_run_id").items():
        for attempt, ones in grouped(steps, "attempt").items():
            groups[job, attempt] = sorted(ones, key=lambda row: row["step_index"])
    return groups


def _overlaps(seen: Evidence) -> Iterator[tuple[str, str]]:
    """Yield the job runs of which two processes ran at once: attempts at one step, or two steps."""
    jobs: dict[str, list[Process]] = defaultdict(list)
    for process in seen.processes:
        jobs[process.job].append(process)
    for job, processes in jobs.items():
        for first, second in pairwise(sorted(processes, key=lambda one: one.begun)):
            if first.ended > second.begun:
                yield job, f"step runs {first.step} until {first.ended:.3f}, {second.step} from {second.begun:.3f}"
