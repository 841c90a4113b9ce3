"""No hot query reads a table that grows from one end to the other: the services at work, beside 1,000,000 old step runs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from arcentra_server.db import events, queue_head
from arcentra_server.db.engine import Database, Row, Tx
from arcentra_server.domain.states import RunStatus, StepStatus
from tests.support.postgres import connected
from tests.support.shapes import shape, wants
from tests.support.world import World

OLD_STEPS = 1_000_000
OLD_RUNS = 20_000
BACKLOG = 20_000
GROWING = {"step_runs", "leases", "step_queue", "job_runs", "pipeline_runs", "events"}

# Ids in the order of time, as those that the server makes; all of them older. Indexes are built when all is there.
_ID = "('00000000-0000-7{}00-8000-' || lpad(to_hex({}), 12, '0'))::uuid"
_HISTORY = f"""
    SET session_replication_role = replica;
    SET synchronous_commit = off;
    CREATE TEMP TABLE dropped AS
    SELECT indexname, indexdef FROM pg_indexes
     WHERE tablename IN ('step_runs', 'job_runs', 'leases', 'events')
       AND indexname NOT IN (SELECT conindid::regclass::text FROM pg_constraint WHERE conindid <> 0);
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT indexname FROM dropped LOOP EXECUTE 'DROP INDEX ' || name; END LOOP;
    END $$;
    INSERT INTO pipelines (id, namespace, name) SELECT {_ID.format(0, "i")}, 'old', 'old-' || i FROM generate_series(1, 50) i;
    INSERT INTO pipeline_runs (id, pipeline_id, namespace, spec_version, status, finished_at, timeout_ms, total_jobs)
    SELECT {_ID.format(1, "i")}, {_ID.format(0, "1 + i % 50")}, 'old', 1,
           CASE WHEN i > {BACKLOG} / 50 THEN 'SUCCESS' ELSE 'PENDING' END,
           CASE WHEN i > {BACKLOG} / 50 THEN now() - i * interval '1 s' END, 1000, 10
      FROM generate_series(1, {OLD_RUNS}) i;
    INSERT INTO run_stages (run_id, stage_index, name, open_jobs)
    SELECT {_ID.format(1, "i")}, 0, 'default', 0 FROM generate_series(1, {OLD_RUNS}) i;
    INSERT INTO job_runs (id, run_id, pipeline_id, name, stage_index, job_index, selector_id, status, finished_at,
                          timeout_ms, definition_name)
    SELECT {_ID.format(2, "i")}, {_ID.format(1, f"1 + i / ({OLD_STEPS} / 5 / {OLD_RUNS})")}, {_ID.format(0, "1 + i % 50")},
           'job-' || i, 0, i, 1, 'SUCCESS', now(), 1000, 'job'
      FROM generate_series(0, {OLD_STEPS} / 5 - 1) i;
    INSERT INTO step_runs (id, run_id, job_run_id, pipeline_id, name, step_index, status, selector_id, dispatch, timeout_ms,
                           started_at, finished_at, cancel_cause, cancel_requested_at)
    SELECT {_ID.format(3, "i")}, {_ID.format(1, f"1 + i / ({OLD_STEPS} / {OLD_RUNS})")}, {_ID.format(2, "i / 5")},
           {_ID.format(0, "1 + i % 50")}, 's', i % 5, CASE WHEN i < {BACKLOG} THEN 'QUEUED' ELSE 'SUCCESS' END, 1, '', 1000,
           CASE WHEN i >= {BACKLOG} THEN now() END, CASE WHEN i >= {BACKLOG} THEN now() END,
           CASE WHEN i % 100 = 99 THEN 'request' END, CASE WHEN i % 100 = 99 THEN now() END
      FROM generate_series(0, {OLD_STEPS} - 1) i;
    INSERT INTO leases (id, step_run_id, agent_id, ended_at, end_reason)
    SELECT {_ID.format(4, "i")}, {_ID.format(3, "i")}, {_ID.format(5, "i % 20")}, now(), 'SUCCESS'
      FROM generate_series({BACKLOG}, {OLD_STEPS} / 2) i;
    INSERT INTO events (resource, run_id, step_run_id, status)
    SELECT 'step', {_ID.format(1, f"1 + i / ({OLD_STEPS} / {OLD_RUNS})")}, {_ID.format(3, "i")}, 'SUCCESS'
      FROM generate_series(1, {OLD_STEPS} / 5) i;
    INSERT INTO step_queue (step_run_id, selector_id, run_id, pipeline_id, share, agent_id)
    SELECT {_ID.format(3, "i")}, 1000000 + i % 1000, {_ID.format(1, "1 + i / 50")}, {_ID.format(0, "1 + i % 50")}, i,
           CASE WHEN i % 10 = 0 THEN {_ID.format(5, "i % 20")} END
      FROM generate_series(0, {BACKLOG} - 1) i;
    INSERT INTO agents (id, name, lease_until) SELECT {_ID.format(5, "i")}, 'old-' || i, now() + interval '1 d' FROM generate_series(0, 19) i;
    DO $$ DECLARE definition text; BEGIN
        FOR definition IN SELECT indexdef FROM dropped LOOP EXECUTE definition; END LOOP;
    END $$;
    ANALYZE;
"""  # noqa: S608 - all numbers are of this file


class Explained:
    """A transaction of which every statement is explained before it is run."""

    def __init__(self, tx: Tx, plans: dict[str, Any]) -> None:
        self._tx = tx
        self._plans = plans

    async def _explain(self, query: str, values: tuple[object, ...]) -> None:
        if query not in self._plans:
            [row] = await self._tx.fetch("EXPLAIN (FORMAT JSON) " + query, *values)
            self._plans[query] = json.loads(row[0])[0]["Plan"]

    async def fetch(self, query: str, *values: object) -> list[Row]:
        await self._explain(query, values)
        return list(await self._tx.fetch(query, *values))

    async def fetchrow(self, query: str, *values: object) -> Row | None:
        await self._explain(query, values)
        return await self._tx.fetchrow(query, *values)

    async def fetchval(self, query: str, *values: object) -> Any:
        await self._explain(query, values)
        return await self._tx.fetchval(query, *values)

    async def execute(self, query: str, *values: object) -> str:
        await self._explain(query, values)
        return str(await self._tx.execute(query, *values))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)


class ExplainedDatabase(Database):
    """A database whose connections keep the plans of their statements; `plans` is of all of them."""

    plans: ClassVar[dict[str, Any]] = {}

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[Tx]:
        async with super().statements() as tx:
            yield Explained(tx, self.plans)  # type: ignore[misc]


@pytest.fixture
async def world(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A world whose every statement is explained, in a database with a long history and a long queue."""
    async with connected(dsn) as connection:
        await connection.execute(_HISTORY)
    monkeypatch.setattr("tests.support.world.Database", ExplainedDatabase)
    monkeypatch.setattr(ExplainedDatabase, "plans", {})
    async with World(dsn) as world:
        yield world


def _scans(plan: Mapping[str, Any], again: bool = False) -> Iterator[str]:
    """Name the growing tables that are read from one end to the other, or, `again` and again, a whole index of them."""
    if plan.get("Relation Name") in GROWING:
        if plan["Node Type"] == "Seq Scan":
            yield plan["Relation Name"]
        if again and "Index Scan" in plan["Node Type"] and "Index Cond" not in plan:
            yield f"{plan['Relation Name']} again and again"
    for part in plan.get("Plans", ()):
        inner = plan["Node Type"] == "Nested Loop" and part["Parent Relationship"] == "Inner"
        yield from _scans(part, again or inner or part["Parent Relationship"] == "SubPlan")


async def _run_everything(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs go through all that happens to them again and again."""
    agent = await world.agent("x", 4, os="linux")
    pulling = await world.agent("y", 1, online=False, os="bsd")
    many = [shape(". .", {"a": wants(pool=str(number)), "b": wants(os="bsd")}) for number in range(3)]
    runs = [await world.start(spec) for spec in (shape("... . | ."), *many)]
    await world.server.schedule()
    monkeypatch.setattr(queue_head, "FEW_CLASSES", 0)
    world.server.store.announce_new_work()
    await world.server.schedule()
    assert await world.server.dispatch.fetch(pulling, 1, 0)
    first, *others = world.take(agent)
    for dispatch in (first, *others):
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    job_id = (await world.server.steps.get(first.step_run_id)).job_id
    await world.come_back(agent, [dispatch.step_run_id for dispatch in (first, *others)], [job_id])
    await world.server.agents.heartbeat(agent)
    await world.end(first)
    await world.server.dispatch.refused(pulling, first.lease_id, "")
    await world.server.runs.pause(runs[0].id, None, "", "tester")
    await world.server.runs.resume(runs[0].id, None, "", "tester")
    await world.sql("UPDATE agents SET lease_until = now() - interval '1 s' WHERE id = $1", pulling)
    await world.server.reaper.run_once()
    await world.server.runs.stop(runs[1].id, None, "")
    await world.server.reaper.run_once()
    await world.server.orders.run_once()
    await world.server.watchdog.run_once()
    async with world.database.transaction() as tx:
        await events.read_after(tx, await events.last_id(tx) - 10, 10)
    assert await runs[1].status() is RunStatus.CANCELLED


_MUST_SEE = (
    "SELECT EXISTS (SELECT FROM (SELECT ready_at",
    "AS started\n             FROM unnest",
    "s.cancel_reason\n      FROM leases l",
    "AS c(agent_id, id) LEFT JOIN job_runs",
    "ARRAY(SELECT id FROM agents WHERE lease_until IS NULL)",
    "SELECT count(*) FROM leases l WHERE l.agent_id = a.id",
    "FROM room WHERE free > 0",
    "ORDER BY finished_at FETCH FIRST",
    "s.status = 'QUEUED' AND s.id <> ALL($1::uuid[]) AND (SELECT",
    "NOT IN ('QUEUED', 'RUNNING')",
    "completed_jobs = total_jobs",
    "FROM front",
    "CROSS JOIN LATERAL",
    "DELETE FROM step_queue q USING fitting",
    "queued AS (SELECT step_run_id FROM step_queue",
    "INSERT INTO step_queue (run_id, pipeline_id",
    "INSERT INTO step_queue (step_run_id",
    "INSERT INTO leases",
    "UPDATE leases l SET ended_at",
    "s.status = 'QUEUED' ORDER BY l.id",
    "lease_until < clock_timestamp()",
    "lease_until = clock_timestamp() + make_interval",
    "s.cancel_cause IS NOT NULL AND s.status = 'RUNNING'",
    "s.status = 'QUEUED'\n              AND l.created_at <",
    "s.started_at + s.timeout_ms",
    "FROM step_queue WHERE job_started",
    "finished_at IS NULL AND timeout_ms IS NOT NULL AND NOT stopped",
    "q.agent_id IS NOT NULL AND (a.deleted_at",
    "FOR NO KEY UPDATE",
)


@pytest.mark.slow
async def test_hot_queries_find_their_rows_by_an_index(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await _run_everything(world, monkeypatch)
    plans = ExplainedDatabase.plans
    missed = [text for text in _MUST_SEE if not any(text in query for query in plans)]
    assert not missed, "these were not run"
    scanned = {query: sorted(found) for query, plan in plans.items() if (found := set(_scans(plan)))}
    assert not scanned, "\n\n".join(f"{tables}: {query}" for query, tables in scanned.items())
