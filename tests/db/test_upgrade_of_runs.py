"""Runs of the previous release: unfinished when the schema is upgraded, or stored by it after that, they end as they should."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import pytest
from alembic import command
from sqlalchemy import Connection

from arcentra_server.db import migrate
from arcentra_server.db.embedded import EmbeddedPostgres
from arcentra_server.db.engine import new_id
from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.states import RunStatus, StepStatus
from tests.support.postgres import connected
from tests.support.world import Run, World

_DATABASE = "upgrade_of_runs"
_DIGEST = b"any agent"
# What the previous release names in its rows; all else is left to the defaults of the columns.
_RUN = """INSERT INTO pipeline_runs (id, pipeline_id, namespace, spec_version, trigger_type, triggered_by, branch,
                                     commit_sha, variables, request_id, stage_count, total_jobs)
          VALUES ($1, $2, 'default', 1, 'MANUAL', 'tester', '', '', '{}', NULL, $3, $4)"""
_STAGE = "INSERT INTO run_stages (run_id, stage_index, name, open_jobs) VALUES ($1, $2, $3, $4)"
_JOB = """INSERT INTO job_runs (run_id, pipeline_id, id, name, stage_index, job_index, selector_id, timeout_ms, total_steps)
          VALUES ($1, $2, $3, $4, $5, $6, $7, NULL, 1)"""
_STEP = """INSERT INTO step_runs (run_id, pipeline_id, created_by, id, job_run_id, name, step_index, status, selector_id,
                                  own_selector, continue_on_error, timeout_ms, dispatch)
           VALUES ($1, $2, 'tester', $3, $4, $5, 0, $6, $7, false, false, NULL, '')"""
_QUEUE = "INSERT INTO step_queue (run_id, step_run_id, selector_id) VALUES ($1, $2, $3)"


@asynccontextmanager
async def _older_database(server: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database as the previous release left it."""
    async with connected(server.dsn("postgres")) as admin:
        await admin.execute(f"CREATE DATABASE {_DATABASE}")
        try:
            dsn = server.dsn(_DATABASE)
            await _upgrade_to(dsn, "0002")
            yield dsn
        finally:
            await admin.execute(f"DROP DATABASE {_DATABASE} WITH (FORCE)")


async def _upgrade_to(dsn: str, revision: str) -> None:
    engine = migrate.async_engine(dsn)
    async with engine.connect() as connection:
        await connection.run_sync(_upgrade, revision)
        await connection.commit()
    await engine.dispose()


def _upgrade(connection: Connection, revision: str) -> None:
    config = migrate._config()  # nothing else goes to a revision that is not the newest
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def _pipeline(connection: asyncpg.Connection) -> UUID:
    pipeline_id = new_id()
    await connection.execute("INSERT INTO pipelines (id, namespace, name) VALUES ($1, 'default', 'old')", pipeline_id)
    return pipeline_id


async def _store(connection: asyncpg.Connection, pipeline_id: UUID, *stages: str) -> UUID:
    """Store a run as the previous release does. A letter is a job of one step, both named by it."""
    run_id = new_id()
    selector = await connection.fetchval(
        """INSERT INTO selectors (digest, document) VALUES ($1, '[]')
           ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest RETURNING id""",
        _DIGEST,
    )
    await connection.execute(_RUN, run_id, pipeline_id, len(stages), sum(map(len, stages)))
    for index, names in enumerate(stages):
        await connection.execute(_STAGE, run_id, index, f"stage {index}", len(names))
        for place, name in enumerate(names):
            job_id, step_id = new_id(), new_id()
            await connection.execute(_JOB, run_id, pipeline_id, job_id, name, index, place, selector)
            status = "PENDING" if index else "QUEUED"
            await connection.execute(_STEP, run_id, pipeline_id, step_id, job_id, name, status, selector)
            if not index:
                await connection.execute(_QUEUE, run_id, step_id, selector)
    return run_id


async def _end(connection: asyncpg.Connection, run_id: UUID, name: str, status: StepStatus) -> None:
    """End a job of a run, with its step, as the previous release does when nothing follows from it."""
    await connection.execute(
        """WITH job AS (
               UPDATE job_runs SET status = $3, outcome = $3, completed_steps = 1, failed_steps = $4::int,
                                   started_at = clock_timestamp(), finished_at = clock_timestamp()
                WHERE run_id = $1 AND name = $2 RETURNING id, stage_index),
           step AS (
               UPDATE step_runs s SET status = $3, started_at = clock_timestamp(), finished_at = clock_timestamp()
                 FROM job WHERE s.job_run_id = job.id RETURNING s.id),
           stage AS (
               UPDATE run_stages t SET open_jobs = open_jobs - 1
                 FROM job WHERE t.run_id = $1 AND t.stage_index = job.stage_index),
           run AS (
               UPDATE pipeline_runs SET status = 'RUNNING', completed_jobs = completed_jobs + 1,
                                        failed_jobs = failed_jobs + $4::int,
                                        outcome = CASE outcome WHEN 'FAILED' THEN outcome ELSE $3 END,
                                        started_at = coalesce(started_at, clock_timestamp())
                WHERE id = $1)
           DELETE FROM step_queue q USING step WHERE q.step_run_id = step.id""",
        run_id,
        name,
        status.value,
        int(status is StepStatus.FAILED),
    )


@pytest.mark.parametrize(
    ("ended", "states", "status"),
    [(StepStatus.FAILED, "F S x", RunStatus.FAILED), (StepStatus.SUCCESS, "S S S", RunStatus.SUCCESS)],
)
async def test_unfinished_run_goes_on_after_the_upgrade(
    postgres: EmbeddedPostgres, ended: StepStatus, states: str, status: RunStatus
) -> None:
    async with _older_database(postgres) as dsn:
        async with connected(dsn) as connection:
            pipeline_id = await _pipeline(connection)
            run_id = await _store(connection, pipeline_id, "ab", "c")
            await _end(connection, run_id, "a", ended)
        await migrate.upgrade(dsn)
        async with World(dsn) as world:
            stages = await world.sql("SELECT outcome, opened FROM run_stages ORDER BY stage_index")
            assert [tuple(row) for row in stages] == [(ended.value, True), ("SKIPPED", False)]
            waits = await world.sql("SELECT waits_for FROM job_runs ORDER BY job_index + stage_index * 2")
            assert [row["waits_for"] for row in waits] == ["", "", "stage"]
            run = Run(world, run_id, pipeline_id)
            await _work(world, run, *("b" if ended is StepStatus.FAILED else "bc"))
            assert (await run.states(), await run.status()) == (states, status)


async def test_upgrade_that_broke_off_before_its_end_is_repeated(postgres: EmbeddedPostgres) -> None:
    async with _older_database(postgres) as dsn:
        await _upgrade_to(dsn, "0003")
        async with connected(dsn) as raw:
            await raw.execute("DROP INDEX ix_pipeline_runs_deadline")
            await raw.execute("UPDATE alembic_version SET version_num = '0002'")
            await migrate.upgrade(dsn)
            assert await raw.fetchval("SELECT to_regclass('ix_pipeline_runs_deadline') IS NOT NULL")
        assert await migrate.current(dsn) == migrate.head()


async def test_upgrade_waits_for_a_change_that_is_under_way_and_hinders_it_nowhere(postgres: EmbeddedPostgres) -> None:
    async with _older_database(postgres) as dsn:
        await _upgrade_to(dsn, "0008")
        async with connected(dsn) as server, connected(dsn) as observer, asyncio.TaskGroup() as group:
            async with server.transaction():
                # As any change does: it reads the jobs first, and writes the queue later.
                await server.execute("SELECT FROM job_runs")
                upgrading = group.create_task(migrate.upgrade(dsn))
                while not await observer.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    assert not upgrading.done()
                    await asyncio.sleep(0.01)
                await server.execute("UPDATE step_queue SET held = false")
            assert await upgrading == ["0009", "0010", "0011", "0012"]


async def test_upgrade_leaves_the_queue_as_it_is_and_what_is_overdue_in_it_times_out(
    postgres: EmbeddedPostgres,
) -> None:
    """A statement that looked at a long queue would keep everybody from it: what waits is marked later, bit by bit."""
    async with _older_database(postgres) as dsn:
        await _upgrade_to(dsn, "0008")
        async with connected(dsn) as connection:
            pipeline_id = await _pipeline(connection)
            run_id = await _store(connection, pipeline_id, "a")
            await connection.execute("UPDATE job_runs SET status = 'RUNNING', started_at = now(), timeout_ms = 0")
            await connection.execute(
                "UPDATE pipeline_runs SET status = 'RUNNING', running_jobs = 1, started_at = now()"
            )
            versions = await connection.fetch("SELECT ctid, xmin FROM step_queue")
            await migrate.upgrade(dsn)
            assert await connection.fetch("SELECT ctid, xmin FROM step_queue") == versions
        async with World(dsn) as world:
            run = Run(world, run_id, pipeline_id)
            await world.server.reaper.run_once()
            assert await run.states() == "Q"
            assert await world.server.watchdog.run_once() == 1
            await world.server.reaper.run_once()
            assert (await run.states(), await run.status()) == ("T", RunStatus.FAILED)


async def test_failure_that_the_previous_release_takes_after_the_upgrade_counts(dsn: str) -> None:
    async with World(dsn) as world, connected(dsn) as connection:
        pipeline_id = await _pipeline(connection)
        run = Run(world, await _store(connection, pipeline_id, "ab", "c"), pipeline_id)
        await _end(connection, run.id, "a", StepStatus.FAILED)
        await _work(world, run, "b")
        assert (await run.states(), await run.status()) == ("F S x", RunStatus.FAILED)


async def test_run_that_the_previous_release_stores_after_the_upgrade_ends(dsn: str) -> None:
    async with World(dsn) as world, connected(dsn) as connection:
        pipeline_id = await _pipeline(connection)
        run = Run(world, await _store(connection, pipeline_id, "a", "b", "c"), pipeline_id)
        await _work(world, run, *"abc")
        assert (await run.states(), await run.status()) == ("S S S", RunStatus.SUCCESS)


async def test_stage_that_the_previous_release_opens_goes_on(dsn: str) -> None:
    async with World(dsn) as world, connected(dsn) as connection:
        pipeline_id = await _pipeline(connection)
        run = Run(world, await _store(connection, pipeline_id, "a", "b", "c"), pipeline_id)
        await connection.execute("UPDATE job_runs SET waits_for = 'stage' WHERE stage_index > 0")  # as the upgrade does
        await _end(connection, run.id, "a", StepStatus.SUCCESS)
        await connection.execute("UPDATE step_runs SET status = 'QUEUED' WHERE name = 'b'")
        await connection.execute(
            "INSERT INTO step_queue (run_id, step_run_id, selector_id) "
            "SELECT run_id, id, selector_id FROM step_runs WHERE name = 'b'"
        )
        await _work(world, run, *"bc")
        assert (await run.states(), await run.status()) == ("S S S", RunStatus.SUCCESS)


async def _work(world: World, run: Run, *names: str) -> None:
    """Let an agent with a place for each of these steps run them, in this order, each when it is sent."""
    agent = await world.agent("agent", capacity=9)
    sent: dict[UUID, Dispatch] = {}
    for name in names:
        await world.server.schedule()
        sent |= {dispatch.step_run_id: dispatch for dispatch in world.take(agent)}
        dispatch = sent[await run.step_id(name)]
        assert await world.report(dispatch, StepStatus.RUNNING) is None
        await world.end(dispatch)
