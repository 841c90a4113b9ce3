"""Many runs at once on real agents: every one ends, each step runs once, and the counters are those of the rows."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from arcentra_api.pipeline.v1 import pipeline_pb2
from tests.support.consistency import check_consistent
from tests.support.processes import Sandbox, database_of
from tests.support.server import Server, client_of
from tests.system.verbs import SUCCESS, apply, document, ends_of, steps_of, trigger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

AGENTS, CAPACITY = 4, 4
CALLERS, RUNS = 4, 50  # each caller has a connection, of which the server serves so many calls at a time
T = TypeVar("T")


def _stages(name: str, script: str) -> str:
    """Two jobs side by side, then one."""
    step = {"name": "only", "uses": "shell", "args": {"script": script}}
    jobs = [{"name": job, "steps": [step]} for job in ("left", "right", "last")]
    return json.dumps({"name": name, "stages": [{"name": "a", "jobs": jobs[:2]}, {"name": "b", "jobs": jobs[2:]}]})


async def test_two_hundred_runs_at_once(sandbox: Sandbox, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    script = f"echo $ARCENTRA_STEP_RUN_ID >> {ran}"  # the shell appends: one short write is never torn
    server = await sandbox.serve()
    async with asyncio.TaskGroup() as group:
        for number in range(AGENTS):
            group.create_task(sandbox.agent(server, f"agent-{number}", capacity=CAPACITY))
    async with client_of(server) as client:
        pipelines = [
            await apply(client, document("one", script)),
            await apply(client, document("two", script, script)),
            await apply(client, _stages("three", script)),
        ]
    callers = await _all(_run_all(server, pipelines, number) for number in range(CALLERS))
    runs = {run.run_id: run for caller in callers for run in caller}
    assert Counter(run.status for run in runs.values()) == {SUCCESS: CALLERS * RUNS}
    assert all(_counters_fit(run) for run in runs.values())
    steps = sorted(step.step_run_id for run in runs.values() for step in steps_of(run))
    assert len(steps) == CALLERS * (17 + 2 * 17 + 3 * 16)
    assert sorted(ran.read_text().split()) == steps
    async with database_of(server) as database, database.transaction(snapshot=True) as tx:
        await check_consistent(tx)
        agents = await tx.fetchval("SELECT count(DISTINCT agent_id) FROM step_runs WHERE status = 'SUCCESS'")
        pipelines_counted = await tx.fetch("SELECT total_runs, success_runs, failed_runs FROM pipelines ORDER BY name")
    assert agents == AGENTS
    assert sorted(map(tuple, pipelines_counted)) == [(64, 64, 0), (68, 68, 0), (68, 68, 0)]


async def _run_all(server: Server, pipelines: list[str], caller: int) -> list[pipeline_pb2.PipelineRunDetail]:
    async with client_of(server) as client:
        started = await _all(trigger(client, pipelines[n % 3], request_id=f"{caller}-{n}") for n in range(RUNS))
        return await ends_of(client, started)


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in work]
    return [task.result() for task in tasks]


def _counters_fit(run: pipeline_pb2.PipelineRunDetail) -> bool:
    jobs = len(run.job_runs)
    return (run.total_jobs, run.completed_jobs, run.failed_jobs, run.running_jobs) == (jobs, jobs, 0, 0)
