"""The address that code hosts deliver to, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from prometheus_client import CollectorRegistry

from arcentra_server.db.hooks import HookRow
from arcentra_server.domain.definition import EventTrigger
from arcentra_server.domain.errors import Unavailable
from arcentra_server.domain.forge import Forge
from arcentra_server.domain.hooks import hook_path
from arcentra_server.services.webhooks import WebhookService
from arcentra_server.web.http import HttpServer, make_app
from arcentra_server.web.webhooks import routes
from tests.support.clock import FakeClock
from tests.support.deliveries import SECRET, Delivery, delivery, generic
from tests.support.hooks import Hooks
from tests.support.world import World

MIB = 1024 * 1024


@dataclass
class Site:
    """A server and who talks to it."""

    hooks: Hooks
    client: httpx.AsyncClient
    port: int

    async def post(self, hook: HookRow, one: Delivery, **more: Any) -> tuple[int, dict[str, Any]]:
        answer = await self.client.post(hook_path(hook.id), headers=dict(one.headers), content=one.body, **more)
        return answer.status_code, answer.json()


async def serve(webhooks: WebhookService, body_seconds: float = 20.0) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
    async def ready() -> dict[str, str]:
        return {}

    server = HttpServer(
        make_app(ready, CollectorRegistry(), routes(webhooks, body_seconds=body_seconds)), "127.0.0.1", 0
    )
    port = server.bind()
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve())
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            yield client, port
        server.should_exit = True


@pytest.fixture
async def site(world: World) -> AsyncIterator[Site]:
    hooks = Hooks(world, FakeClock("2026-11-26T12:00:00"))
    async for client, port in serve(hooks.webhooks()):
        yield Site(hooks, client, port)


async def test_answers(site: Site) -> None:
    await site.hooks.pipeline(name="build")
    hook = await site.hooks.hook(Forge.GITHUB)
    one = delivery("github_push")
    status, answer = await site.post(hook, one)
    assert (status, answer["outcome"], len(answer["runs"])) == (200, "fired", 1)
    assert await site.post(hook, one) == (
        200,
        {"outcome": "duplicate", "first": "fired", "runs": answer["runs"]},
    )
    assert await site.post(hook, delivery("github_push_deleted")) == (
        200,
        {"outcome": "filtered", "reason": "the branch or tag was deleted", "runs": []},
    )
    assert await site.post(hook, delivery("github_ping")) == (
        200,
        {"outcome": "filtered", "reason": "a ping: the hook works", "runs": []},
    )
    refused = {"outcome": "refused", "runs": []}
    assert await site.post(hook, one.signed("not the secret at all")) == (401, {**refused, "reason": "bad signature"})
    assert await site.post(hook, one.without("x-hub-signature-256")) == (401, {**refused, "reason": "bad signature"})
    broken = Delivery(one.forge, one.headers, b"{").signed(SECRET)
    status, answer = await site.post(hook, broken)
    assert (status, answer["reason"]) == (
        400,
        "the body is not JSON: set the content type of the hook to application/json",
    )
    assert (await site.client.get(hook_path(hook.id))).status_code == 405
    await site.hooks.service.delete(hook.id)
    assert await site.post(hook, one) == (404, {**refused, "reason": "no such hook"})
    unknown = await site.client.post("/webhooks/anything", content=b"{}")
    assert (unknown.status_code, unknown.json()) == (404, {**refused, "reason": "no such hook"})
    assert (await site.client.get("/healthz")).json() == {"status": "ok"}


async def test_what_is_told_of_a_delivery_is_one_line_that_steers_nothing(site: Site) -> None:
    await site.hooks.pipeline(EventTrigger(("x",), repos=("acme/*",)), name="build")
    hook = await site.hooks.hook(Forge.GENERIC)
    hostile = {"event": "x", "repo": "a\nb\x1b[2J\u009b\u202e", "actor": "\x1b]0;pwn\x07", "action": "\x07"}
    status, answer = await site.post(hook, generic(hostile))
    assert (status, answer["reason"]) == (200, "repos: a b\ufffd[2J\ufffd\ufffd does not pass acme/*")
    [entry] = await site.hooks.entries()
    assert entry.reason == answer["reason"]
    assert entry.summary == "x \ufffd"
    status, answer = await site.post(hook, generic({"event": "x", "branch": "a\u009b\u202e"}))
    assert (status, answer["reason"]) == (400, r"branch: 'a\x9b\u202e' is not the name of a branch or tag")


@pytest.mark.parametrize("name", ["gitlab_merge_request", "gitea_push", "gitea_pull_request_fork"])
async def test_other_code_hosts(site: Site, name: str) -> None:
    await site.hooks.pipeline(EventTrigger(("push", "pull_request")))
    one = delivery(name)
    hook = await site.hooks.hook(one.forge)
    status, answer = await site.post(hook, one)
    assert (status, answer["outcome"]) == (200, "fired")


async def test_a_form_is_taken_as_github_signs_it(site: Site) -> None:
    await site.hooks.pipeline()
    hook = await site.hooks.hook(Forge.GITHUB)
    one = delivery("github_push").with_headers(content_type="application/x-www-form-urlencoded")
    form = Delivery(one.forge, one.headers, urlencode({"payload": one.body.decode()}).encode()).signed(SECRET)
    status, answer = await site.post(hook, form)
    assert (status, answer["outcome"]) == (200, "fired")


async def test_a_signature_that_came_twice_is_none(site: Site) -> None:
    hook = await site.hooks.hook(Forge.GITHUB)
    one = delivery("github_ping")
    twice = [*one.headers.items(), ("x-hub-signature-256", "sha256=00")]
    answer = await site.client.post(hook_path(hook.id), headers=twice, content=one.body)
    assert answer.status_code == 401


async def test_bodies_that_are_too_large(site: Site) -> None:
    hook = await site.hooks.hook(Forge.GENERIC)
    largest = json.dumps({"event": "x", "filling": ""}).encode()
    filling = 5 * MIB - len(largest)
    fits = generic({"event": "x", "filling": "y" * filling})
    assert len(fits.body) == 5 * MIB
    assert (await site.post(hook, fits))[0] == 200
    over = generic({"event": "x", "filling": "y" * (filling + 1)})
    refused = {"outcome": "refused", "reason": "the body is larger than 5 MiB", "runs": []}
    assert await site.post(hook, over) == (413, refused)

    async def without_length() -> AsyncIterator[bytes]:
        for start in range(0, len(over.body), MIB):
            yield over.body[start : start + MIB]

    answer = await site.client.post(hook_path(hook.id), headers=dict(over.headers), content=without_length())
    assert (answer.status_code, answer.json()) == (413, refused)


async def test_nobody_reads_a_body_for_a_hook_that_is_not_there(site: Site) -> None:
    """The answer comes before the body does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"POST /webhooks/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    assert b"404" in await reader.readline()
    writer.close()


async def test_a_body_that_does_not_come(world: World) -> None:
    hooks = Hooks(world, FakeClock("2026-11-26T12:00:00"))
    hook = await hooks.hook(Forge.GENERIC)
    async for _, port in serve(hooks.webhooks(), body_seconds=0.05):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST {hook_path(hook.id)} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{{".encode())
        assert b"408" in await reader.readline()
        writer.close()


class Broken(WebhookService):
    """Fails in the way it is told to."""

    error: Exception

    async def find(self, _: object) -> HookRow:
        raise self.error


async def test_failures(world: World) -> None:
    broken = Broken(world.database, world.server.keys, world.server.starter.start)
    async for client, _ in serve(broken):
        broken.error = Unavailable("the database is not reachable")
        answer = await client.post("/webhooks/018f0000-0000-7000-8000-000000000000", content=b"{}")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        broken.error = ZeroDivisionError("the secret is hunter2")
        answer = await client.post("/webhooks/018f0000-0000-7000-8000-000000000000", content=b"{}")
        assert answer.status_code == 500
        assert answer.json()["reason"].startswith("internal error (request ")
        assert "hunter2" not in answer.text
