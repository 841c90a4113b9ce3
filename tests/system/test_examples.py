"""Every example is applied and run to the end that it states, by the real server and the real agent."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from tests.support.examples import EXAMPLES, Example, examples
from tests.support.hook_server import HookServer, hook_server
from tests.support.processes import sandbox_of, until
from tests.support.server import Client, Server, client_of
from tests.system.verbs import apply, end_of, get_run, trigger

pytestmark = pytest.mark.slow

APPROVE, REJECT = pipeline_pb2.APPROVAL_DECISION_APPROVE, pipeline_pb2.APPROVAL_DECISION_REJECT
_ALLOWED = {
    "ARCENTRA_NOTIFICATIONS__ALLOW": '["127.0.0.0/8", "::1"]',
    "ARCENTRA_NOTIFICATIONS__ALLOW_HTTP": "true",
}


@dataclass
class Place:
    """Where the examples run: a server, an agent, a repository, and somebody who listens."""

    server: Server
    client: Client
    repository: Path
    hooks: HookServer

    def filled(self, text: str) -> str:
        return text.replace("@repo@", str(self.repository)).replace("@hook@", f"http://127.0.0.1:{self.hooks.port}/200")


@pytest.fixture(scope="module")
async def place(template: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    root = tmp_path_factory.mktemp("examples")
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(sandbox_of(template, root / "sandbox", _ALLOWED))
        hooks = await stack.enter_async_context(hook_server())
        server = await sandbox.serve()
        await sandbox.agent(server, capacity=4)
        client = await stack.enter_async_context(client_of(server))
        yield Place(server, client, repository_in(root / "repository"), hooks)


def repository_in(path: Path) -> Path:
    """Make a repository with one commit."""
    path.mkdir()
    (path / "README").write_text("An example.\n")
    identity = ("-c", "user.name=Example", "-c", "user.email=example@example.com")
    for command in (("init", "--quiet", "--initial-branch=main"), ("add", "."), (*identity, "commit", "-qm", "First")):
        subprocess.run(("git", *command), cwd=path, check=True, capture_output=True)
    return path


@pytest.mark.parametrize("example", examples(), ids=str)
async def test_example_ends_as_it_says(place: Place, example: Example) -> None:
    for name, value in example.pairs("secret").items():
        request = admin_pb2.SetSecretRequest(namespace="default", name=name, value=place.filled(value))
        await place.client.admin.SetSecret(request, metadata=place.client.metadata)
    pipeline_id = await apply(place.client, place.filled(example.text))
    runs = [await trigger(place.client, pipeline_id, variables=_variables(example, 0))]
    for number in range(1, int(example.directives.get("runs", "1"))):
        await until(lambda: _has_begun(place.client, runs[0]))
        runs.append(await trigger(place.client, pipeline_id, variables=_variables(example, number)))
    await _intervene(place.client, example, runs[-1])
    run = await end_of(place.client, runs[-1])
    assert _name(run.status) == example.directives["ends"], run
    if "first" in example.directives:
        assert _name((await end_of(place.client, runs[0])).status) == example.directives["first"]
    ended = {job.job_name: _name(job.status) for job in run.job_runs}
    assert {**ended, **example.pairs("jobs")} == ended
    attempts = {job.job_name: str(job.attempt) for job in run.job_runs}
    assert {**attempts, **example.pairs("attempts")} == attempts
    await _check_traces(place, example, run)


async def test_event_starts_the_example_that_waits_for_it(place: Place) -> None:
    client = place.client
    pipeline_id = await apply(client, (EXAMPLES / "webhook.yaml").read_text())
    made = await client.admin.CreateHook(
        admin_pb2.CreateHookRequest(name="code", pipeline_id=pipeline_id, forge=admin_pb2.FORGE_GITHUB),
        metadata=client.metadata,
    )
    body = (Path(__file__).parents[1] / "data" / "webhooks" / "github_push.json").read_bytes()
    document = json.loads(body)
    document["ref"] = "refs/heads/main"
    document["commits"] = document["commits"][:1]
    document["commits"][0].update(added=["src/new.py"], removed=[], modified=["docs/index.md"])
    body = json.dumps(document).encode()
    headers = {
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": "0b989ba4-242f-11e5-81e1-c7b6966d2516",
        "Content-Type": "application/json",
        "X-Hub-Signature-256": "sha256=" + hmac.new(made.secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    async with httpx.AsyncClient(base_url=f"http://{place.server.http}") as http:
        answers = [await http.post(made.hook.path, content=body, headers=headers) for _ in range(2)]
        forged = await http.post(made.hook.path, content=body + b" ", headers=headers)
    assert [answer.status_code for answer in (*answers, forged)] == [200, 200, 401]
    listed = await client.pipeline.ListPipelineRuns(
        pipeline_pb2.ListPipelineRunsRequest(pipeline_id=pipeline_id), metadata=client.metadata
    )
    [run] = [one for one in listed.runs if one.trigger_type == pipeline_pb2.TRIGGER_TYPE_EVENT]
    assert _name((await end_of(client, run.run_id)).status) == "SUCCESS"
    assert run.branch == "main"
    ledger = await client.pipeline.ListTriggerEvents(
        pipeline_pb2.ListTriggerEventsRequest(pipeline_id=pipeline_id), metadata=client.metadata
    )
    fired = [entry.run_id for entry in ledger.events if entry.outcome == pipeline_pb2.TRIGGER_OUTCOME_FIRED]
    assert fired == [run.run_id]


def _variables(example: Example, number: int) -> dict[str, str]:
    first = {"first": "yes"} if "first" in example.directives and number == 0 else {}
    return {**example.pairs("trigger"), **first}


async def _has_begun(client: Client, run_id: str) -> bool:
    return (await get_run(client, run_id)).status != pipeline_pb2.PIPELINE_STATUS_PENDING


async def _intervene(client: Client, example: Example, run_id: str) -> None:
    match example.directives.get("does"):
        case "stop":
            await until(lambda: _has_begun(client, run_id))
            request = pipeline_pb2.StopPipelineRequest(run_id=run_id, reason="an example")
            await client.pipeline.StopPipeline(request, metadata=client.metadata)
        case "approve" | "reject" as vote:

            async def gate() -> str:
                pending = (await get_run(client, run_id)).pending_approvals
                return str(pending[0].approval_id) if pending else ""

            decision = APPROVE if vote == "approve" else REJECT
            voted = pipeline_pb2.DecideApprovalRequest(approval_id=await until(gate), decision=decision)
            await client.pipeline.DecideApproval(voted, metadata=client.metadata)


async def _check_traces(place: Place, example: Example, run: pipeline_pb2.PipelineRunDetail) -> None:
    """Look for what an example leaves behind besides states."""
    client = place.client
    if target := example.directives.get("deployments"):
        answer = await client.pipeline.ListDeployments(
            pipeline_pb2.ListDeploymentsRequest(run_id=run.run_id), metadata=client.metadata
        )
        assert [(one.target, _name(one.status)) for one in answer.deployments] == [(target, "SUCCESS")]
    if "notifies" in example.directives:

        async def sent() -> bool:
            answer = await client.pipeline.ListNotifications(
                pipeline_pb2.ListNotificationsRequest(run_id=run.run_id), metadata=client.metadata
            )
            [one] = answer.notifications
            assert one.state != "failed", one
            return bool(one.state == "sent")

        await until(sent)
    if "repository" in example.directives:
        assert len(run.commit_sha) == 40


def _name(status: pipeline_pb2.PipelineStatus.ValueType) -> str:
    return pipeline_pb2.PipelineStatus.Name(status).removeprefix("PIPELINE_STATUS_")
