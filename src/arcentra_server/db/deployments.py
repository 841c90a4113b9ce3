"""Which run brought which commit to which target."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.db.engine import Tx
from arcentra_server.db.paging import Page
from arcentra_server.domain.states import StepStatus

_SELECT = """
    SELECT d.id, d.namespace, d.pipeline_id, p.name AS pipeline_name, d.run_id, j.name AS job_name, d.step_run_id, d.type,
           d.target, d.commit_sha, d.status, d.triggered_by, d.finished_at
      FROM deployments d JOIN pipelines p ON p.id = d.pipeline_id JOIN job_runs j ON j.id = d.job_run_id
"""
_SORT = {"created_at": "d.finished_at"}


@dataclass(frozen=True, slots=True)
class DeploymentRow:
    """A step `target` that has ended, well or not."""

    id: UUID
    namespace: str
    pipeline_id: UUID
    pipeline_name: str
    run_id: UUID
    job_name: str
    step_run_id: UUID
    type: str
    target: str
    commit_sha: str
    status: StepStatus
    triggered_by: str
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class DeploymentFilter:
    """Which deployments a list is of; what is None or empty does not matter."""

    pipeline_id: UUID | None = None
    run_id: UUID | None = None
    namespace: str = ""
    target: str = ""


async def list_page(tx: Tx, wanted: DeploymentFilter, page: Page) -> tuple[list[DeploymentRow], int]:
    """Return one page of deployments, the newest first, and how many there are in all."""
    where = """WHERE ($1::uuid IS NULL OR d.pipeline_id = $1) AND ($2::uuid IS NULL OR d.run_id = $2)
                 AND ($3 = '' OR d.namespace = $3) AND ($4 = '' OR d.target = $4) """
    values = (wanted.pipeline_id, wanted.run_id, wanted.namespace, wanted.target)
    rows = await tx.fetch(_SELECT + where + page.clause(_SORT).replace(", id ", ", d.id "), *values)
    found = []
    for row in rows:
        fields = dict(row)
        fields["status"] = StepStatus(fields["status"])
        found.append(DeploymentRow(**fields))
    return found, await tx.fetchval(f"SELECT count(*) FROM deployments d {where}", *values)
