"""The server is killed, at every turn of a step's life: the step runs once, and nothing of its log is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from tests.agent.processes import Gate, is_alive
from tests.support.processes import Agent, Sandbox, database_of, until
from tests.support.server import Client, Server, client_of
from tests.system.verbs import SUCCESS, apply, document, end_of, log_of, start, step_of, trigger

pytestmark = pytest.mark.slow

LINES = 200  # of each half
# The file is written before the log, so that what it has is what the log must have.
COUNTING = """
echo $$ >> {pids}
for half in 0 1; do
  number=0
  while [ $number -lt {lines} ]; do
    number=$((number + 1))
    echo "line $((half * {lines} + number)) of $ARCENTRA_STEP_RUN_ID" | tee -a {written}
    sleep 0.02
  done
  read line < {gate}
done
"""


class Installation:
    """A server that is killed and started again at its address, and an agent that lives through it."""

    def __init__(self, sandbox: Sandbox, server: Server, agent: Agent) -> None:
        self.sandbox = sandbox
        self.server = server
        self.agent = agent

    async def start_again(self) -> None:
        self.server = await self.sandbox.serve_again(self.server)


@pytest.fixture(scope="module")
async def installation(shared: Sandbox) -> Installation:
    server = await shared.serve()
    return Installation(shared, server, await shared.agent(server))


async def test_a_step_goes_on_while_the_server_is_killed_twice(installation: Installation, tmp_path: Path) -> None:
    written, pids, gate = tmp_path / "written", tmp_path / "pids", Gate(tmp_path / "gate")
    script = COUNTING.format(pids=pids, lines=LINES, written=written, gate=gate.path)
    async with client_of(installation.server) as client:
        run = await start(client, document("counting", script))
    step = step_of(run)
    for half in (0, 1):
        first, last = half * LINES + 20, (half + 1) * LINES
        async with client_of(installation.server) as client:
            await log_of(client, step.step_run_id, until=b"line %d of" % first)
        await installation.server.kill()
        # The rest of this half has nobody to take it.
        await until(partial(_has, written, b"line %d of" % last))
        await installation.start_again()
        assert is_alive(int(pids.read_text()))
        async with client_of(installation.server) as client:
            await log_of(client, step.step_run_id, until=b"line %d of" % last)
        await gate.open()
    async with client_of(installation.server) as client:
        run = await end_of(client, run.run_id)
        log = await log_of(client, step.step_run_id)
    assert run.status == SUCCESS
    assert step_of(run).step_run_id == step.step_run_id
    assert log == written.read_bytes()
    assert log == b"".join(b"line %d of %s\n" % (n, step.step_run_id.encode()) for n in range(1, 2 * LINES + 1))


async def when_acknowledged(_: Installation, client: Client, run_id: str) -> None:
    """At once: the trigger was answered, nothing else is known."""


async def when_it_runs(_: Installation, client: Client, run_id: str) -> None:
    """RUNNING is committed; whether the agent has heard so is left to chance."""
    await _reached(client, run_id, steprun_pb2.STEP_RUN_STATUS_RUNNING)


async def when_it_has_ended(_: Installation, client: Client, run_id: str) -> None:
    """The end is committed; whether the agent has heard so is left to chance."""
    await _reached(client, run_id, steprun_pb2.STEP_RUN_STATUS_SUCCESS)


@pytest.mark.parametrize("moment", [when_acknowledged, when_it_runs, when_it_has_ended])
async def test_a_step_runs_once_whenever_the_server_is_killed(
    installation: Installation, tmp_path: Path, moment: Callable[[Installation, Client, str], Awaitable[None]]
) -> None:
    ran = tmp_path / "ran"
    async with client_of(installation.server) as client:
        pipeline_id = await apply(client, document(moment.__name__, f"echo $ARCENTRA_STEP_RUN_ID >> {ran}"))
        run_id = await trigger(client, pipeline_id)
        await moment(installation, client, run_id)
    await installation.server.kill()
    await installation.start_again()
    await _ran_once(installation, run_id, ran)


async def test_a_step_that_was_dispatched_and_not_taken_runs_once(installation: Installation, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    async with client_of(installation.server) as client:
        await end_of(client, (await start(client, document("connected", "true"))).run_id)
    async with installation.agent.frozen():
        async with client_of(installation.server) as client:
            run = await start(client, document("dispatched", f"echo $ARCENTRA_STEP_RUN_ID >> {ran}"))
            await _leased(installation.server, step_of(run).step_run_id)
        await installation.server.kill()
        await installation.start_again()
    await _ran_once(installation, run.run_id, ran)


def _has(path: Path, text: bytes) -> bool:
    return text in path.read_bytes()


async def _leased(server: Server, step_run_id: str) -> None:
    async with database_of(server) as database:

        async def lease() -> object:
            async with database.transaction() as tx:
                return await tx.fetchval("SELECT id FROM leases WHERE step_run_id = $1", UUID(step_run_id))

        await until(lease)


async def _reached(client: Client, run_id: str, status: steprun_pb2.StepRunStatus.ValueType) -> None:
    request = stream_pb2.StreamStepRunStatusRequest(pipeline_run_id=run_id)
    async for change in client.stream.StreamStepRunStatus(request, metadata=client.metadata):
        if change.status == status:
            return
    raise AssertionError("the step ended otherwise")


async def _ran_once(installation: Installation, run_id: str, ran: Path) -> None:
    async with client_of(installation.server) as client:
        run = await end_of(client, run_id)
    assert run.status == SUCCESS
    assert ran.read_text().split() == [step_of(run).step_run_id]
