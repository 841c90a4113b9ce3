"""What the schema itself makes impossible, whatever the program does."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import pytest

from arcentra_server.db import execution_write
from arcentra_server.db.engine import Database, Tx, new_id
from arcentra_server.domain.states import RunStatus, StepStatus
from tests.support import factories


@dataclass(frozen=True)
class Rows:
    """One row of each kind, in a transaction that is rolled back."""

    tx: Tx
    agent: UUID
    pipeline: UUID
    run: UUID
    job: UUID
    step: UUID
    lease: UUID

    async def refuses(self, constraint: str, statement: str, *values: object) -> None:
        """Check that a statement breaks this constraint."""
        with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
            async with self.tx.transaction():
                await self.tx.execute(statement, *values)
        assert refused.value.constraint_name == constraint

    async def takes(self, statement: str, *values: object) -> None:
        """Check that a statement breaks nothing."""
        async with self.tx.transaction():
            await self.tx.execute(statement, *values)


@pytest.fixture
async def rows(dsn: str) -> AsyncIterator[Rows]:
    async with Database(dsn) as database, database.transaction() as tx:
        agent, pipeline = await factories.agent(tx), await factories.pipeline(tx, name="build")
        run = await factories.run(tx, pipeline)
        job = await factories.job(tx, run)
        step = await factories.step(tx, job, agent_id=agent)
        lease = await factories.lease(tx, step, agent)
        yield Rows(tx, agent, pipeline, run, job, step, lease)


async def test_states_are_known_ones(rows: Rows) -> None:
    await rows.refuses("ck_agents_status", "UPDATE agents SET status = 'ASLEEP'")
    await rows.refuses("ck_pipelines_last_status", "UPDATE pipelines SET last_status = 'QUEUED'")
    await rows.refuses("ck_pipeline_runs_status", "UPDATE pipeline_runs SET status = 'QUEUED'")
    await rows.refuses("ck_pipeline_runs_trigger_type", "UPDATE pipeline_runs SET trigger_type = 'MOON'")
    await rows.refuses("ck_job_runs_status", "UPDATE job_runs SET status = 'QUEUED'")
    await rows.refuses("ck_step_runs_status", "UPDATE step_runs SET status = 'PAUSED'")
    await rows.refuses("ck_step_runs_cancel_cause", "UPDATE step_runs SET cancel_cause = 'mood'")
    await rows.refuses(
        "ck_events_resource", "INSERT INTO events (resource, run_id, status) VALUES ('stage', $1, 'PENDING')", rows.run
    )


@pytest.mark.parametrize("table", ["pipeline_runs", "job_runs", "step_runs"])
async def test_end_and_time_of_the_end_go_together(rows: Rows, table: str) -> None:
    statuses = [status.value for status in (StepStatus if table == "step_runs" else RunStatus)]
    for status in statuses:
        ends = StepStatus(status).terminal if table == "step_runs" else RunStatus(status).terminal
        at, other = ("clock_timestamp()", "NULL") if ends else ("NULL", "clock_timestamp()")
        await rows.takes(f"UPDATE {table} SET status = '{status}', finished_at = {at}")  # noqa: S608 - constants of this test
        await rows.refuses(f"ck_{table}_ended", f"UPDATE {table} SET status = '{status}', finished_at = {other}")  # noqa: S608 - constants of this test


async def test_step_that_runs_has_an_agent_and_a_beginning(rows: Rows) -> None:
    await rows.refuses("ck_step_runs_running", "UPDATE step_runs SET agent_id = NULL")
    await rows.refuses("ck_step_runs_running", "UPDATE step_runs SET started_at = NULL")


async def test_step_has_one_lease_at_a_time(rows: Rows) -> None:
    insert = "INSERT INTO leases (id, step_run_id, agent_id) VALUES ($1, $2, $3)"
    await rows.refuses("uq_leases_held", insert, new_id(), rows.step, rows.agent)
    await rows.refuses("ck_leases_ended", "UPDATE leases SET ended_at = clock_timestamp()")
    await rows.refuses("ck_leases_ended", "UPDATE leases SET end_reason = 'lost'")
    await rows.takes("UPDATE leases SET ended_at = clock_timestamp(), end_reason = 'lost'")
    await rows.refuses("fk_leases_agent_id", insert, new_id(), rows.step, new_id())
    await rows.takes(insert, new_id(), rows.step, rows.agent)


async def test_step_is_in_the_queue_once(rows: Rows) -> None:
    insert = "INSERT INTO step_queue (step_run_id, selector_id, run_id) VALUES ($1, 1, $2)"
    await rows.takes(insert, rows.step, rows.run)
    await rows.refuses("pk_step_queue", insert, rows.step, rows.run)


async def test_attempts_of_a_step_are_told_apart(rows: Rows) -> None:
    copy = """INSERT INTO step_runs (id, run_id, job_run_id, pipeline_id, name, step_index, attempt, selector_id, dispatch)
              SELECT $1, run_id, job_run_id, pipeline_id, name, step_index, $2, selector_id, dispatch FROM step_runs
               WHERE id = $3"""
    await rows.refuses("uq_step_runs_attempt", copy, new_id(), 1, rows.step)
    await rows.takes(copy, new_id(), 2, rows.step)


async def test_counters_add_up(rows: Rows) -> None:
    for counters in (
        "running_jobs = -1",
        "completed_jobs = 2",
        "running_jobs = 1, completed_jobs = 1",
        "failed_jobs = 1",
    ):
        await rows.refuses("ck_pipeline_runs_counters", f"UPDATE pipeline_runs SET {counters}")  # noqa: S608 - constants of this test
    for counters in ("running_steps = -1", "completed_steps = 2", "running_steps = 1, completed_steps = 1"):
        await rows.refuses("ck_job_runs_counters", f"UPDATE job_runs SET {counters}")  # noqa: S608 - constants of this test
    stage = "INSERT INTO run_stages (run_id, stage_index, name, open_jobs) VALUES ($1, 7, 'late', -1)"
    await rows.refuses("ck_run_stages_open_jobs", stage, rows.run)
    await rows.refuses("ck_agents_capacity", "UPDATE agents SET capacity = 0")


async def test_names_of_pipelines_are_taken_while_they_exist(rows: Rows) -> None:
    insert = "INSERT INTO pipelines (id, namespace, name) VALUES ($1, $2, 'build')"
    await rows.refuses("uq_pipelines_name", insert, new_id(), "default")
    await rows.takes(insert, new_id(), "other")
    await rows.takes("UPDATE pipelines SET deleted_at = clock_timestamp() WHERE id = $1", rows.pipeline)
    await rows.takes(insert, new_id(), "default")


async def test_request_starts_one_run(rows: Rows) -> None:
    await rows.takes("UPDATE pipeline_runs SET request_id = 'one'")
    insert = """INSERT INTO pipeline_runs (id, pipeline_id, namespace, spec_version, request_id)
                VALUES ($1, $2, 'default', 1, $3)"""
    await rows.refuses("uq_pipeline_runs_request", insert, new_id(), rows.pipeline, "one")
    for request in ("two", None, None):
        await rows.takes(insert, new_id(), rows.pipeline, request)


async def test_jobs_of_a_run_have_names_of_their_own(rows: Rows) -> None:
    copy = """INSERT INTO job_runs (id, run_id, pipeline_id, name, stage_index, job_index, selector_id)
              SELECT $1, run_id, pipeline_id, name, 0, 1, 1 FROM job_runs WHERE id = $2"""
    await rows.refuses("uq_job_runs_run_id_name", copy, new_id(), rows.job)


async def test_tokens_fit_their_kind_and_their_uses(rows: Rows) -> None:
    insert = (
        "INSERT INTO tokens (id, kind, name, role, secret_hash, agent_id, max_uses) VALUES ($1, $2, '', '', '', $3, $4)"
    )
    await rows.refuses("ck_tokens_kind", insert, "a", "cookie", None, None)
    await rows.refuses("ck_tokens_agent", insert, "a", "agent", None, None)
    await rows.refuses("ck_tokens_agent", insert, "a", "user", rows.agent, None)
    await rows.takes(insert, "a", "agent", rows.agent, None)
    await rows.takes(insert, "b", "registration", None, 1)
    await rows.takes("UPDATE tokens SET uses = 1 WHERE id = 'b'")
    await rows.refuses("ck_tokens_uses", "UPDATE tokens SET uses = 2 WHERE id = 'b'")


async def test_what_agents_and_steps_send_is_stored_once(rows: Rows) -> None:
    event = "INSERT INTO agent_events (agent_id, seq, event_id, event_type) VALUES ($1, $2, $3, 'note')"
    await rows.takes(event, rows.agent, 1, "one")
    await rows.refuses("pk_agent_events", event, rows.agent, 1, "two")
    await rows.refuses("uq_agent_events_agent_id_event_id", event, rows.agent, 2, "one")
    chunk = """INSERT INTO log_chunks (step_run_id, seq, start_offset, raw_size, compression, data)
               VALUES ($1, $2, 0, 1, 0, 'x')"""
    await rows.takes(chunk, rows.step, 1)
    await rows.refuses("pk_log_chunks", chunk, rows.step, 1)
    artifact = "INSERT INTO artifacts (id, job_run_id, name) VALUES ($1, $2, 'image')"
    await rows.takes(artifact, new_id(), rows.job)
    await rows.refuses("uq_artifacts_job_run_id_name", artifact, new_id(), rows.job)


async def test_run_takes_everything_of_it_along(rows: Rows) -> None:
    await rows.takes("DELETE FROM pipeline_runs WHERE id = $1", rows.run)
    for table in ("job_runs", "step_runs", "leases"):
        assert await rows.tx.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608 - constants of this test


_INDEXED = """
    SELECT DISTINCT a.attname
      FROM pg_index i JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
      JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
     WHERE i.indrelid = $1::text::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
    UNION
    SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
     WHERE i.indrelid = $1::text::regclass
"""


@pytest.mark.parametrize(
    ("table", "statement"), [("step_runs", execution_write._STEPS.sql), ("job_runs", execution_write._JOBS.sql)]
)
async def test_progress_is_written_where_no_index_has_to_be_written_with_it(
    rows: Rows, table: str, statement: str
) -> None:
    written = set(re.findall(r"(?:SET|,)\s+(\w+) = ", statement))
    indexed = {row["attname"] for row in await rows.tx.fetch(_INDEXED, table)}
    assert {"status", "started_at", "finished_at"} <= written
    assert {"id", "run_id"} <= indexed
    assert written & indexed == set()
