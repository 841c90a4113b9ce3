"""Rows by SQL, one function a row, in any state the schema allows: for tests of what reads them.

Times are the database's. What a row belongs to is named by its id; everything else has a default.
"""

import itertools
import json
from collections.abc import Mapping
from uuid import UUID

from arcentra_server.db import events
from arcentra_server.db.engine import Tx, new_id
from arcentra_server.domain.execution import Event, Resource
from arcentra_server.domain.states import AgentStatus, RunStatus, StepStatus

_numbers = itertools.count(1)


async def agent(
    tx: Tx, *, name: str = "", status: AgentStatus = AgentStatus.IDLE, labels: Mapping[str, str] | None = None
) -> UUID:
    agent_id = new_id()
    await tx.execute(
        """INSERT INTO agents (id, name, ip, capacity, claimed_labels, status, last_contact_at)
           VALUES ($1, $2, '192.0.2.1', 4, $3::text::jsonb, $4, clock_timestamp())""",
        agent_id,
        name or f"agent-{next(_numbers)}",
        json.dumps(dict(labels or {})),
        status.value,
    )
    return agent_id


async def pipeline(tx: Tx, *, name: str = "", namespace: str = "default") -> UUID:
    pipeline_id = new_id()
    await tx.execute(
        "INSERT INTO pipelines (id, namespace, name) VALUES ($1, $2, $3)",
        pipeline_id,
        namespace,
        name or f"pipeline-{next(_numbers)}",
    )
    return pipeline_id


async def run(
    tx: Tx, pipeline_id: UUID, *, status: RunStatus = RunStatus.RUNNING, total_jobs: int = 1, completed_jobs: int = 0
) -> UUID:
    run_id = new_id()
    await tx.execute(
        """INSERT INTO pipeline_runs (id, pipeline_id, namespace, spec_version, status, total_jobs, completed_jobs,
                                      started_at, finished_at)
           VALUES ($1, $2, 'default', 1, $3, $4, $5, CASE WHEN $3 <> 'PENDING' THEN clock_timestamp() END,
                   CASE WHEN $6 THEN clock_timestamp() END)""",
        run_id,
        pipeline_id,
        status.value,
        total_jobs,
        completed_jobs,
        status.terminal,
    )
    return run_id


async def job(
    tx: Tx, run_id: UUID, *, name: str = "", status: RunStatus = RunStatus.RUNNING, total_steps: int = 1
) -> UUID:
    job_id = new_id()
    await tx.execute(
        """INSERT INTO job_runs (id, run_id, pipeline_id, name, stage_index, job_index, selector_id, status, total_steps,
                                 started_at, finished_at)
           SELECT $1, $2, pipeline_id, $3, 0, 0, 1, $4, $5, CASE WHEN $4 <> 'PENDING' THEN clock_timestamp() END,
                  CASE WHEN $6 THEN clock_timestamp() END
             FROM pipeline_runs WHERE id = $2""",
        job_id,
        run_id,
        name or f"job-{next(_numbers)}",
        status.value,
        total_steps,
        status.terminal,
    )
    return job_id


async def step(
    tx: Tx,
    job_id: UUID,
    *,
    name: str = "",
    status: StepStatus = StepStatus.RUNNING,
    agent_id: UUID | None = None,
    index: int | None = None,
    log_size: int | None = None,
) -> UUID:
    """Make a step run. One that runs needs an agent."""
    step_id = new_id()
    await tx.execute(
        """INSERT INTO step_runs (id, run_id, job_run_id, pipeline_id, name, step_index, status, selector_id, dispatch,
                                  agent_id, log_size, started_at, finished_at)
           SELECT $1, run_id, $2, pipeline_id, $3, $4, $5, 1, '', $6, $7,
                  CASE WHEN $5 NOT IN ('PENDING', 'QUEUED', 'SKIPPED') THEN clock_timestamp() END,
                  CASE WHEN $8 THEN clock_timestamp() END
             FROM job_runs WHERE id = $2""",
        step_id,
        job_id,
        name or f"step-{next(_numbers)}",
        next(_numbers) if index is None else index,
        status.value,
        agent_id,
        log_size,
        status.terminal,
    )
    return step_id


async def lease(tx: Tx, step_id: UUID, agent_id: UUID, *, ended: bool = False) -> UUID:
    lease_id = new_id()
    await tx.execute(
        """INSERT INTO leases (id, step_run_id, agent_id, ended_at, end_reason)
           VALUES ($1, $2, $3, CASE WHEN $4 THEN clock_timestamp() END, CASE WHEN $4 THEN 'SUCCESS' END)""",
        lease_id,
        step_id,
        agent_id,
        ended,
    )
    return lease_id


async def set_step(tx: Tx, step_id: UUID, status: StepStatus, *, log_size: int | None = None) -> None:
    """Change a step run and tell the journal."""
    row = await tx.fetchrow(
        """UPDATE step_runs s
              SET status = $2, log_size = $3,
                  started_at = CASE WHEN $2 = 'RUNNING' THEN clock_timestamp() ELSE s.started_at END,
                  finished_at = CASE WHEN $4 THEN clock_timestamp() END
             FROM (SELECT id, status FROM step_runs WHERE id = $1 FOR NO KEY UPDATE) old
            WHERE s.id = old.id
        RETURNING s.pipeline_id, s.run_id, s.job_run_id, s.agent_id, old.status AS previous""",
        step_id,
        status.value,
        log_size,
        status.terminal,
    )
    assert row is not None
    ids = (row["pipeline_id"], row["run_id"], row["job_run_id"], step_id, row["agent_id"])
    await events.append(tx, [Event(Resource.STEP, *ids, status.value, row["previous"])])


async def set_run(tx: Tx, run_id: UUID, status: RunStatus) -> None:
    """Change a pipeline run and tell the journal."""
    row = await tx.fetchrow(
        """UPDATE pipeline_runs r SET status = $2, finished_at = CASE WHEN $3 THEN clock_timestamp() END
             FROM (SELECT id, status FROM pipeline_runs WHERE id = $1 FOR NO KEY UPDATE) old
            WHERE r.id = old.id RETURNING r.pipeline_id, old.status AS previous""",
        run_id,
        status.value,
        status.terminal,
    )
    assert row is not None
    event = Event(Resource.RUN, row["pipeline_id"], run_id, None, None, None, status.value, row["previous"])
    await events.append(tx, [event])


async def set_agent(tx: Tx, agent_id: UUID, status: AgentStatus) -> None:
    """Change an agent and tell the journal."""
    previous = await tx.fetchval("SELECT status FROM agents WHERE id = $1 FOR NO KEY UPDATE", agent_id)
    await tx.execute("UPDATE agents SET status = $2 WHERE id = $1", agent_id, status.value)
    await events.append(tx, [Event(Resource.AGENT, None, None, None, None, agent_id, status.value, previous)])
