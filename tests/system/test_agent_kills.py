"""An agent is killed while it runs steps: they fail for that reason, and what it left running is ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from arcentra_api.pipeline.v1 import pipeline_pb2
from tests.agent.processes import gone, is_alive
from tests.support.processes import Agent, Sandbox
from tests.support.server import Client, client_of
from tests.system.verbs import FAILED, SUCCESS, document, end_of, get_run, log_of, start, step_of, steps_of

pytestmark = pytest.mark.slow

SHORT_LEASES = {"ARCENTRA_AGENTS__LEASE_SECONDS": "3", "ARCENTRA_AGENTS__HEARTBEAT_SECONDS": "1"}


async def test_the_steps_of_a_killed_agent_fail_and_it_comes_back_clean(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.settings = SHORT_LEASES
    pids = tmp_path / "pids"
    server = await sandbox.serve()
    agent = await sandbox.agent(server)
    async with client_of(server) as client:
        runs = [
            await start(client, document(name, f"echo $$ >> {pids}\necho started\nexec sleep 600", "echo after"))
            for name in ("first", "second")
        ]
        for run in runs:
            await log_of(client, steps_of(run)[0].step_run_id, until=b"started")
        await agent.kill()
        for run in runs:
            end = await end_of(client, run.run_id)
            assert end.status == FAILED
            assert [step.status for step in steps_of(end)] == [FAILED, pipeline_pb2.PIPELINE_STATUS_SKIPPED]
            assert steps_of(end)[0].failure_reason == "agent_lost"
        left = [int(pid) for pid in pids.read_text().split()]
        assert len(left) == 2
        assert all(map(is_alive, left))
        await sandbox.agent(server)
        for pid in left:
            await gone(pid)
        run = await start(client, document("after", "echo there"))
        assert (await end_of(client, run.run_id)).status == SUCCESS


async def test_an_agent_that_was_given_up_is_told_to_stop(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.settings = SHORT_LEASES
    pids = tmp_path / "pids"
    server = await sandbox.serve()
    agent = await sandbox.agent(server)
    async with client_of(server) as client:
        run = await start(client, document("frozen", f"echo $$ >> {pids}\necho started\nexec sleep 600"))
        await log_of(client, step_of(run).step_run_id, until=b"started")
        async with agent.frozen():
            end = await end_of(client, run.run_id)
        assert (end.status, step_of(end).failure_reason) == (FAILED, "agent_lost")
        await gone(int(pids.read_text()))
        await _works_again(client, agent)
        assert step_of(await get_run(client, run.run_id)) == step_of(end)


async def _works_again(client: Client, agent: Agent) -> None:
    run = await start(client, document("again", "echo there"))
    assert (await end_of(client, run.run_id)).status == SUCCESS
    assert agent.process.returncode is None
