"""What readers of the journal want to know beside the event: names, times, and how things ended. Loaded in sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.db.events import EventRow
from arcentra_server.domain.execution import Resource

STEPS = """
    SELECT s.id, s.pipeline_id, s.run_id, s.job_run_id, s.agent_id, s.status, s.name, j.name AS job_name, s.created_at,
           s.started_at, s.finished_at, coalesce(s.exit_code, 0) AS exit_code, s.error_message, s.metrics,
           CASE s.status WHEN 'PENDING' THEN coalesce(nullif(j.waits_for, ''), 'previous_step')
                         WHEN 'QUEUED' THEN 'agent' ELSE '' END AS waiting
      FROM step_runs s JOIN job_runs j ON j.id = s.job_run_id
"""
JOBS = """
    SELECT j.id, j.pipeline_id, j.run_id, j.agent_id, j.status, j.name, j.created_at, j.started_at, j.finished_at,
           j.total_steps AS total, j.completed_steps AS completed, j.failed_steps AS failed,
           j.running_steps AS running, j.current_step AS current,
           CASE j.status WHEN 'PENDING' THEN coalesce(nullif(j.waits_for, ''), 'queue') ELSE j.waits_for END AS waiting
      FROM job_runs j
"""
RUNS = """
    SELECT r.id, r.pipeline_id, r.status, r.namespace, p.name AS pipeline_name, r.created_at, r.started_at,
           r.finished_at, r.total_jobs AS total, r.completed_jobs AS completed, r.failed_jobs AS failed,
           r.running_jobs AS running, r.status_reason
      FROM pipeline_runs r JOIN pipelines p ON p.id = r.pipeline_id
"""
AGENTS = """
    SELECT a.id, a.status, a.name, a.ip, a.capacity, a.metrics, a.created_at, a.last_contact_at,
           a.claimed_labels || a.server_labels AS labels,
           (SELECT count(*) FROM leases l WHERE l.agent_id = a.id AND l.ended_at IS NULL)::int AS running
      FROM agents a
"""


@dataclass(frozen=True, slots=True)
class StepDetail:
    """A step run: where it belongs, and how it ended if it has."""

    job_name: str
    name: str
    agent_id: UUID | None
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int
    error_message: str
    metrics: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class JobDetail:
    """A job run."""

    name: str
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class RunDetail:
    """A pipeline run."""

    namespace: str
    pipeline_name: str
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class AgentDetail:
    """An agent, as it is now. `running` counts its leases; `labels` are those in force."""

    name: str
    ip: str
    capacity: int
    running: int
    metrics: Mapping[str, str]
    last_contact_at: datetime | None
    labels: Mapping[str, str]


Detail = StepDetail | JobDetail | RunDetail | AgentDetail


def step_detail(row: Row) -> StepDetail:
    """Read a row of STEPS."""
    return StepDetail(
        row["job_name"],
        row["name"],
        row["agent_id"],
        row["started_at"],
        row["finished_at"],
        row["exit_code"],
        row["error_message"],
        row["metrics"],
    )


def job_detail(row: Row) -> JobDetail:
    """Read a row of JOBS."""
    return JobDetail(row["name"], row["started_at"], row["finished_at"])


def run_detail(row: Row) -> RunDetail:
    """Read a row of RUNS."""
    return RunDetail(row["namespace"], row["pipeline_name"], row["started_at"], row["finished_at"])


def agent_detail(row: Row) -> AgentDetail:
    """Read a row of AGENTS."""
    return AgentDetail(
        row["name"],
        row["ip"],
        row["capacity"],
        row["running"],
        row["metrics"],
        row["last_contact_at"],
        row["labels"],
    )


async def details(tx: Tx, events: Iterable[EventRow]) -> dict[UUID, Detail]:
    """Return what there is to know, now, of the resources that these events are about, by their ids."""
    wanted: dict[Resource, set[UUID | None]] = {}
    for event in events:
        identity = event.step_id or event.job_id or event.run_id or event.agent_id
        wanted.setdefault(event.resource, set()).add(identity)
    found: dict[UUID, Detail] = {}
    if steps := wanted.get(Resource.STEP):
        found |= {row["id"]: step_detail(row) for row in await tx.fetch(STEPS + "WHERE s.id = ANY($1)", list(steps))}
    if jobs := wanted.get(Resource.JOB):
        found |= {row["id"]: job_detail(row) for row in await tx.fetch(JOBS + "WHERE j.id = ANY($1)", list(jobs))}
    if runs := wanted.get(Resource.RUN):
        found |= {row["id"]: run_detail(row) for row in await tx.fetch(RUNS + "WHERE r.id = ANY($1)", list(runs))}
    if agents := wanted.get(Resource.AGENT):
        found |= {row["id"]: agent_detail(row) for row in await tx.fetch(AGENTS + "WHERE a.id = ANY($1)", list(agents))}
    return found
