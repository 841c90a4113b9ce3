"""`arcentra-server` beside a running server and without one, its configuration, and a client with nothing but reflection."""

from __future__ import annotations

import json

import pytest

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.agent.v1 import agent_pb2
from tests.support.processes import Outcome, Sandbox, running_below
from tests.support.server import Server, client_of
from tests.system.verbs import SUCCESS, apply, document, end_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
async def server(shared: Sandbox) -> Server:
    server = await shared.serve()
    await shared.agent(server)
    return server


async def test_tokens_are_made_beside_a_running_server(server: Server) -> None:
    token = await server.command("token", "create", "--role", "viewer", "--name", "eve")
    assert "\n" not in token
    async with client_of(server, token) as client:
        who = await client.admin.WhoAmI(admin_pb2.WhoAmIRequest(), metadata=client.metadata)
    assert (who.name, who.role) == ("eve", "viewer")


async def test_a_registration_token_labels_the_agents_that_join_with_it(server: Server) -> None:
    token = await server.command("registration-token", "create", "--label", "pool=fast", "--label", "zone=a")
    async with client_of(server) as client:
        request = agent_pb2.RegisterRequest(registration_token=token, agent_name="new", labels={"pool": "slow"})
        answer = await client.agent.Register(request)
    assert dict(answer.labels) == {"pool": "fast", "zone": "a"}


async def test_the_database_is_brought_up_to_date_beside_a_running_server_and_without_one(
    server: Server, sandbox: Sandbox
) -> None:
    assert "schema" in await server.command("migrate")
    outcome = await sandbox.run("arcentra-server", "migrate", "--data-dir", str(sandbox.data_dir))
    assert outcome.code == 0, outcome
    assert "schema" in outcome.out
    assert not running_below(sandbox.data_dir)


async def test_tokens_are_made_without_a_server(sandbox: Sandbox) -> None:
    arguments = ("token", "create", "--role", "admin", "--name", "ada", "--data-dir", str(sandbox.data_dir))
    outcome = await sandbox.run("arcentra-server", *arguments)
    assert outcome.code == 0, outcome
    assert not running_below(sandbox.data_dir)
    server = await sandbox.serve()
    async with client_of(server, outcome.out.strip()) as client:
        who = await client.admin.WhoAmI(admin_pb2.WhoAmIRequest(), metadata=client.metadata)
    assert (who.name, who.role) == ("ada", "admin")


async def test_the_configuration_is_shown_without_secrets(sandbox: Sandbox) -> None:
    file = sandbox.home / "config.toml"
    file.write_text('[database]\nurl = "postgresql://u:hunter2@localhost/x"\n[agents]\nlease_seconds = 47\n')
    outcome = await sandbox.run("arcentra-server", "check-config", "--config", str(file))
    assert outcome.code == 0, outcome
    assert json.loads(outcome.out)["agents"]["lease_seconds"] == 47
    assert "hunter2" not in outcome.out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[agents]\nlease_secondz = 7\n", ("agents.lease_secondz", "no such setting")),
        ("colour = 'red'\n", ("colour", "no such setting")),
        ("[agents]\nlease_seconds = 'soon'\n", ("agents.lease_seconds", "number")),
        ("[agents\n", ("is not TOML", "line 1")),
        (None, ("cannot read", "No such file")),
    ],
)
async def test_a_wrong_configuration_is_named(sandbox: Sandbox, content: str | None, words: tuple[str, ...]) -> None:
    file = sandbox.home / "config.toml"
    if content is not None:
        file.write_text(content)
    for command in ("check-config", "serve"):
        _is_refused(await sandbox.run("arcentra-server", command, "--config", str(file)), str(file), *words)


async def test_the_network_is_refused_without_tls(sandbox: Sandbox) -> None:
    arguments = ("--data-dir", str(sandbox.data_dir), "--grpc-listen", "0.0.0.0:0")
    _is_refused(await sandbox.run("arcentra-server", "serve", *arguments), "grpc", "0.0.0.0:0", "in clear")


async def test_a_client_that_has_nothing_but_reflection(server: Server) -> None:
    async with client_of(server) as client:
        pipeline_id = await apply(client, document("by-curl", "true"))
        listed = await _curl(server, "--list-services")
        assert {"pipeline.v1.PipelineService", "agent.v1.AgentService", "steprun.v1.StepRunService"} <= set(
            listed.out.split()
        )
        body = json.dumps({"pipelineId": pipeline_id})
        triggered = await _curl(server, "-d", body, path="/pipeline.v1.PipelineService/TriggerPipeline")
        assert (await end_of(client, json.loads(triggered.out)["runId"])).status == SUCCESS


async def _curl(server: Server, *options: str, path: str = "") -> Outcome:
    """Call as the README shows."""
    sandbox = Sandbox(server.data_dir.parent / f"curl-{len(options)}")
    outcome = await sandbox.run(
        "buf",
        *("curl", "--protocol", "grpc", "--http2-prior-knowledge", "--reflect-header", "*"),
        *("-H", f"authorization: Bearer {server.token}", *options, f"http://{server.grpc}{path}"),
    )
    assert outcome.code == 0, outcome
    return outcome


def _is_refused(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 78, outcome
    assert not [word for word in words if word not in outcome.err], outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
