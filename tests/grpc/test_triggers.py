"""Triggers, hooks and the ledger on the wire: a real server, real HTTP."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from grpc import StatusCode, aio

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from tests.support.deliveries import Delivery, delivery
from tests.support.server import Client, Server

DOCUMENT = """
namespace: triggers
name: {name}
triggers:
  - type: CRON
    options: {{schedule: "30 2 * * 1-5", time_zone: Europe/Berlin, catch_up: last}}
  - type: EVENT
    options: {{events: [push], branches: [main, "release/**"], variables: {{MODE: ci}}}}
jobs:
  - name: build
    steps:
      - {{name: build, uses: shell, args: {{script: "true"}}}}
"""


async def apply(admin: Client, name: str) -> str:
    request = pipeline_pb2.ApplyPipelineRequest(document=DOCUMENT.format(name=name))
    return str((await admin.pipeline.ApplyPipeline(request, metadata=admin.metadata)).pipeline_id)


async def create_hook(admin: Client, **fields: Any) -> admin_pb2.CreateHookResponse:
    request = admin_pb2.CreateHookRequest(**{"forge": admin_pb2.FORGE_GITHUB, "namespace": "triggers", **fields})
    reply: admin_pb2.CreateHookResponse = await admin.admin.CreateHook(request, metadata=admin.metadata)
    return reply


async def post(server: Server, path: str, one: Delivery) -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://{server.http}", trust_env=False) as client:
        return await client.post(path, headers=dict(one.headers), content=one.body)


async def test_from_a_delivery_to_the_ledger(server: Server, admin: Client) -> None:
    pipeline = await apply(admin, "build")
    made = await create_hook(admin, name="code", pipeline_id=pipeline)
    assert (made.hook.path, made.hook.pipeline_id) == (f"/webhooks/{made.hook.hook_id}", pipeline)
    one = delivery("github_push").signed(made.secret)
    answer = await post(server, made.hook.path, one)
    assert (answer.status_code, answer.json()["outcome"]) == (200, "fired")
    [run_id] = answer.json()["runs"]
    assert (await post(server, made.hook.path, one)).json()["outcome"] == "duplicate"
    assert (await post(server, made.hook.path, delivery("github_push"))).status_code == 401
    run = (
        await admin.pipeline.GetPipelineRun(pipeline_pb2.GetPipelineRunRequest(run_id=run_id), metadata=admin.metadata)
    ).run
    assert (run.trigger_type, run.triggered_by, run.branch) == (pipeline_pb2.TRIGGER_TYPE_EVENT, "ada", "main")
    request = pipeline_pb2.ListTriggerEventsRequest(hook_id=made.hook.hook_id)
    events = (await admin.pipeline.ListTriggerEvents(request, metadata=admin.metadata)).events
    assert [(event.outcome, event.run_id, event.pipeline_name) for event in events] == [
        (pipeline_pb2.TRIGGER_OUTCOME_REFUSED, "", "build"),
        (pipeline_pb2.TRIGGER_OUTCOME_DUPLICATE, "", "build"),
        (pipeline_pb2.TRIGGER_OUTCOME_FIRED, run_id, "build"),
    ]
    fired = events[-1]
    assert (fired.summary, fired.trigger_index, fired.type) == (
        "push main ec26c3e",
        1,
        pipeline_pb2.TRIGGER_TYPE_EVENT,
    )
    request = pipeline_pb2.ListTriggerEventsRequest(
        namespace="triggers", outcome=pipeline_pb2.TRIGGER_OUTCOME_FIRED, page_size=1
    )
    reply = await admin.pipeline.ListTriggerEvents(request, metadata=admin.metadata)
    assert (len(reply.events), reply.total) == (1, 1)
    hooks = (
        await admin.admin.ListHooks(admin_pb2.ListHooksRequest(namespace="triggers"), metadata=admin.metadata)
    ).hooks
    assert [(hook.name, hook.created_by, hook.last_delivery_at > 0) for hook in hooks] == [("code", "admin", True)]


async def test_triggers_are_listed(admin: Client) -> None:
    pipeline = await apply(admin, "listed")
    request = pipeline_pb2.ListTriggersRequest(pipeline_id=pipeline)
    cron, event = (await admin.pipeline.ListTriggers(request, metadata=admin.metadata)).triggers
    assert (cron.type, cron.trigger_index, cron.explanation) == (
        pipeline_pb2.TRIGGER_TYPE_CRON,
        0,
        "At 02:30 on Monday through Friday (Europe/Berlin)",
    )
    assert time.time() < cron.next_at < time.time() + 4 * 86_400
    assert (event.type, event.trigger_index, event.next_at, event.namespace) == (
        pipeline_pb2.TRIGGER_TYPE_EVENT,
        1,
        0,
        "triggers",
    )
    assert list(event.options["branches"]) == ["main", "release/**"]


async def test_hooks_are_given_new_secrets_and_deleted(server: Server, admin: Client) -> None:
    made = await create_hook(admin, name="short-lived", forge=admin_pb2.FORGE_GITLAB, secret="a secret of our own")
    assert made.secret == "a secret of our own"
    hook_id = made.hook.hook_id
    request = admin_pb2.RotateHookSecretRequest(hook_id=hook_id)
    secret = (await admin.admin.RotateHookSecret(request, metadata=admin.metadata)).secret
    for number, good in enumerate((made.secret, secret)):
        one = delivery(("gitlab_push", "gitlab_push_tag")[number]).signed(good)
        assert (await post(server, made.hook.path, one)).status_code == 200
    await admin.admin.DeleteHook(admin_pb2.DeleteHookRequest(hook_id=hook_id), metadata=admin.metadata)
    assert (await post(server, made.hook.path, delivery("gitlab_push"))).status_code == 404


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"name": ""}, StatusCode.INVALID_ARGUMENT, "name: a name is needed"),
        ({"name": "x", "forge": 0}, StatusCode.INVALID_ARGUMENT, "forge: is required"),
        ({"name": "x", "secret": "short"}, StatusCode.INVALID_ARGUMENT, "secret: is 16 to 256 characters"),
        ({"name": "x", "pipeline_id": "nothing"}, StatusCode.NOT_FOUND, "pipeline 'nothing' not found"),
    ],
)
async def test_refusals(admin: Client, fields: dict[str, Any], code: StatusCode, words: str) -> None:
    with pytest.raises(aio.AioRpcError) as refused:
        await create_hook(admin, **fields)
    assert (refused.value.code(), words in (refused.value.details() or "")) == (code, True)


async def test_ids_that_are_none(admin: Client) -> None:
    for call, request, code in (
        (admin.admin.DeleteHook, admin_pb2.DeleteHookRequest(hook_id="x"), StatusCode.NOT_FOUND),
        (admin.admin.RotateHookSecret, admin_pb2.RotateHookSecretRequest(), StatusCode.INVALID_ARGUMENT),
        (admin.pipeline.ListTriggers, pipeline_pb2.ListTriggersRequest(pipeline_id="x"), StatusCode.INVALID_ARGUMENT),
        (
            admin.pipeline.ListTriggerEvents,
            pipeline_pb2.ListTriggerEventsRequest(hook_id="x"),
            StatusCode.INVALID_ARGUMENT,
        ),
    ):
        with pytest.raises(aio.AioRpcError) as refused:
            await call(request, metadata=admin.metadata)
        assert refused.value.code() is code
