"""Notifications of a whole installation: a run ends, a server elsewhere hears of it, and the log says so."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from tests.support.hook_server import HookServer, hook_server
from tests.support.processes import Sandbox, database_of, sandbox_of, until
from tests.support.server import Client, Server, client_of
from tests.system.verbs import SUCCESS, document, end_of, start

pytestmark = pytest.mark.slow
SETTINGS = {
    "ARCENTRA_NOTIFICATIONS__ALLOW": '["127.0.0.0/8", "::1"]',
    "ARCENTRA_NOTIFICATIONS__ALLOW_HTTP": "true",
    "ARCENTRA_NOTIFICATIONS__RUN_URL": "https://ci.example.com/runs/{run_id}",
}
HOOK = {
    "plugin": "webhook",
    "args": {"url": "${{ secrets.HOOK }}", "secret": "${{ secrets.SIGNING }}", "text": "${{ job.name }} is over"},
}


@pytest.fixture
async def hooks() -> AsyncIterator[HookServer]:
    async with hook_server() as hooks:
        yield hooks


@pytest.fixture
async def sandbox(template: Path, tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with sandbox_of(template, tmp_path / "sandbox", SETTINGS) as sandbox:
        yield sandbox


async def hold(client: Client, **secrets: str) -> None:
    for name, value in secrets.items():
        await client.admin.SetSecret(admin_pb2.SetSecretRequest(name=name, value=value), metadata=client.metadata)


async def notifications(client: Client, run_id: str, state: str) -> list[pipeline_pb2.NotificationDetail]:
    """Wait until all notifications of a run are in a state."""
    request = pipeline_pb2.ListNotificationsRequest(run_id=run_id)

    async def found() -> list[Any]:
        answer = await client.pipeline.ListNotifications(request, metadata=client.metadata, wait_for_ready=True)
        listed = list(answer.notifications)
        return listed if listed and all(one.state == state for one in listed) else []

    listed: list[pipeline_pb2.NotificationDetail] = await until(found)
    return listed


async def test_end_of_a_job_is_told_and_listed(sandbox: Sandbox, hooks: HookServer) -> None:
    server = await sandbox.serve()
    await sandbox.agent(server)
    async with client_of(server) as client:
        await hold(client, HOOK=f"http://localhost:{hooks.port}/200", SIGNING="a long secret")
        run = await start(client, document("told", "true", notify={"on_success": HOOK, "on_failure": HOOK}))
        assert (await end_of(client, run.run_id)).status == SUCCESS
        [told] = await notifications(client, run.run_id, "sent")
    [request] = hooks.requests
    said = json.loads(request.body)
    assert (said["event"], said["run_id"], said["text"]) == ("job.success", run.run_id, "job is over")
    assert said["link"] == f"https://ci.example.com/runs/{run.run_id}"
    signature = hmac.new(b"a long secret", request.body, hashlib.sha256).hexdigest()
    assert request.headers["x-arcentra-signature"] == f"sha256={signature}"
    assert request.headers["x-arcentra-delivery"] == told.notification_id
    assert [(attempt.delivered, attempt.error) for attempt in told.attempts] == [(True, "")]
    env = {"ARCENTRA_SERVER": server.grpc, "ARCENTRA_TOKEN": server.token}
    listed = await sandbox.run("arcentra", "notification", "list", "--run", run.run_id, env=env)
    assert (listed.code, listed.err) == (0, "")
    assert "success" in listed.out
    assert "webhook" in listed.out
    address = f":{hooks.port}"  # the bare number may be a part of an id or of a time
    assert address not in listed.out
    assert address not in server.log.read_text()
    await server.stop()


async def _lapse(server: Server) -> None:
    """Let the time pass after which a server that does not answer is taken for dead."""
    async with database_of(server) as database, database.transaction() as tx:
        await tx.execute("UPDATE notifications SET claimed_until = clock_timestamp() WHERE state = 'pending'")


async def test_server_that_is_killed_while_it_sends_sends_again(sandbox: Sandbox, hooks: HookServer) -> None:
    server = await sandbox.serve()
    await sandbox.agent(server)
    async with client_of(server) as client:
        await hold(client, HOOK=f"http://localhost:{hooks.port}/silent", SIGNING="a long secret")
        run = await start(client, document("told", "true", notify={"on_success": HOOK}))
        await hooks.asked.wait()
    await server.kill()
    server = await sandbox.serve_again(server)
    async with client_of(server) as client:
        await hold(client, HOOK=f"http://localhost:{hooks.port}/200")
        await _lapse(server)
        [told] = await notifications(client, run.run_id, "sent")
    first, second = hooks.requests
    assert first.headers["x-arcentra-delivery"] == second.headers["x-arcentra-delivery"]
    assert [attempt.delivered for attempt in told.attempts] == [False, True]


async def test_private_destination_is_refused_and_changes_nothing(sandbox: Sandbox, hooks: HookServer) -> None:
    sandbox.settings.clear()
    server = await sandbox.serve()
    await sandbox.agent(server)
    async with client_of(server) as client:
        await hold(client, HOOK=f"https://localhost:{hooks.port}/200", SIGNING="a long secret")
        run = await start(client, document("told", "true", notify={"on_success": HOOK}))
        assert (await end_of(client, run.run_id)).status == SUCCESS
        [told] = await notifications(client, run.run_id, "failed")
    assert [attempt.error for attempt in told.attempts] == ["destination not allowed"]
    assert hooks.connections == 0
