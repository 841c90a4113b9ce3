"""An agent is killed while it runs steps: they go on if it comes back in time, else they fail and nothing runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from arcentra_api.pipeline.v1 import pipeline_pb2
from tests.agent.processes import Gate, gone
from tests.support.processes import Agent, Sandbox
from tests.support.server import Client, client_of
from tests.system.verbs import FAILED, SUCCESS, document, end_of, get_run, log_of, start, step_of, steps_of

pytestmark = pytest.mark.slow

SHORT_LEASES = {"ARCENTRA_AGENTS__LEASE_SECONDS": "3", "ARCENTRA_AGENTS__HEARTBEAT_SECONDS": "1"}


async def test_the_steps_of_a_killed_agent_fail_and_are_ended_without_it(sandbox: Sandbox, tmp_path: Path) -> None:
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
        for pid in left:
            await gone(pid)
        await sandbox.agent(server)
        run = await start(client, document("after", "echo there"))
        assert (await end_of(client, run.run_id)).status == SUCCESS


async def test_a_run_goes_on_when_its_agent_is_killed_and_comes_back(sandbox: Sandbox, tmp_path: Path) -> None:
    witness, gate, told = tmp_path / "witness", Gate(tmp_path / "gate"), Gate(tmp_path / "told")
    lines = ("seq 1 30000", f"echo once >> {witness}", f"read line < {gate.path}", "seq 30001 60000 | tee made")
    server = await sandbox.serve()
    agent = await sandbox.agent(server)
    async with client_of(server) as client:
        script = "\n".join((*lines, f"echo > {told.path}", f"read line < {gate.path}", "echo done"))
        run = await start(client, document("survivor", script, "cmp made <(seq 30001 60000)"))
        step_run_id = steps_of(run)[0].step_run_id
        await log_of(client, step_run_id, until=b"30000\n")
        await agent.kill()
        await gate.open()
        await told.passed()
        await sandbox.agent(server)
        await log_of(client, step_run_id, until=b"60000\n")
        await gate.open()
        end = await end_of(client, run.run_id)
        assert [step.status for step in steps_of(end)] == [SUCCESS, SUCCESS]
        log = await log_of(client, step_run_id)
    assert end.status == SUCCESS
    assert log == b"".join(b"%d\n" % number for number in range(1, 60_001)) + b"done\n"
    assert witness.read_text() == "once\n"


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
