"""Real agents that a real server lets wait, gives new credentials, and has for one job only."""

from __future__ import annotations

import json
from asyncio.subprocess import Process
from pathlib import Path

import pytest

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.agent.v1 import agent_pb2
from tests.support.processes import Sandbox, database_of, until
from tests.support.server import Client, Server, client_of
from tests.system.verbs import SUCCESS, document, end_of, start, steps_of

pytestmark = pytest.mark.slow

QUICK = {"ARCENTRA_AGENTS__LEASE_SECONDS": "3", "ARCENTRA_AGENTS__HEARTBEAT_SECONDS": "0.5"}


async def test_an_agent_waits_for_its_approval(sandbox: Sandbox) -> None:
    sandbox.settings = QUICK
    server = await sandbox.serve()
    log = sandbox.root / "waiting.log"
    await _agent(sandbox, server, log, token_options=("--needs-approval",))
    async with client_of(server) as client:
        run = await start(client, document("patient", "echo done"))
        await until(lambda: log.exists() and "waiting_for_approval" in log.read_text())
        agent = await until(lambda: _waiting_agent(client))
        outcome = await sandbox.run(
            "arcentra",
            *("--server", server.grpc, "agent", "approve", agent.agent_id),
            env={"ARCENTRA_TOKEN": server.token},
        )
        assert outcome.code == 0, outcome.err
        assert (await end_of(client, run.run_id)).status == SUCCESS
    assert log.read_text().count("arcentra agent approve") == 1


async def test_a_credential_is_rotated_and_only_the_new_one_lasts(sandbox: Sandbox) -> None:
    sandbox.settings = QUICK
    server = await sandbox.serve()
    agent = await sandbox.agent(server)
    file = agent.work_dir / "agent.json"
    await until(file.exists)
    before = _token(file)
    async with database_of(server) as database, client_of(server) as client:
        await agent.kill()
        async with database.transaction() as tx:
            await tx.execute(
                "UPDATE tokens SET created_at = created_at - interval '30 hours' WHERE agent_id IS NOT NULL"
            )
        agent = await sandbox.agent(server)
        await until(lambda: _token(file) != before)
        # Nothing goes by the old one any more.
        async with database.transaction() as tx:
            await tx.execute(
                "UPDATE tokens SET expires_at = now() - interval '1 second' WHERE agent_id IS NOT NULL AND created_at < $1",
                await tx.fetchval("SELECT max(created_at) FROM tokens WHERE agent_id IS NOT NULL"),
            )
        run = await start(client, document("renewed", "echo done"))
        assert (await end_of(client, run.run_id)).status == SUCCESS
        await agent.kill()
        await sandbox.agent(server)
        run = await start(client, document("renewed", "echo again"))
        assert (await end_of(client, run.run_id)).status == SUCCESS


@pytest.mark.parametrize(("last", "code"), [("test -e made", 0), ("exit 4", 1)])
async def test_an_agent_for_one_job(sandbox: Sandbox, last: str, code: int) -> None:
    sandbox.settings = QUICK
    server = await sandbox.serve()
    log = sandbox.root / "once.log"
    process = await _agent(sandbox, server, log, "--once", "--capacity", "1")
    async with client_of(server) as client:
        first = await start(client, document("first", "touch made", last))
        second = await start(client, document("second", "true"))
        ended = await end_of(client, first.run_id)
        assert (await sandbox.finish(process)).code == code, log.read_text()
        assert [agent.agent_id for agent in (await _agents(client))] == []
        assert len(steps_of(ended)) == 2
        await sandbox.agent(server, "another")
        assert (await end_of(client, second.run_id)).status == SUCCESS


async def _agent(
    sandbox: Sandbox, server: Server, log: Path, *options: str, token_options: tuple[str, ...] = ()
) -> Process:
    token = await server.command("registration-token", "create", *token_options)
    return await sandbox.spawn(
        "arcentra-agent",
        *("run", "--server", server.grpc, "--work-dir", str(sandbox.root / "agent"), *options),
        env={"ARCENTRA_AGENT_REGISTRATION_TOKEN": token},
        stderr=log,
    )


async def _agents(client: Client) -> list[admin_pb2.AgentDetail]:
    answer = await client.admin.ListAgents(admin_pb2.ListAgentsRequest(), metadata=client.metadata)
    return list(answer.agents)


async def _waiting_agent(client: Client) -> admin_pb2.AgentDetail | None:
    """Return the agent that waits for approval, once it has been heard of."""
    pending = agent_pb2.AGENT_STATUS_PENDING_APPROVAL
    return next((agent for agent in await _agents(client) if agent.status == pending), None)


def _token(file: Path) -> str:
    return str(json.loads(file.read_text())["token"])
