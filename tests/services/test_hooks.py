"""Hooks: made, listed, given new secrets, deleted; and what of their secrets is stored."""

from uuid import UUID

import pytest

from arcentra_server.db import hooks as rows
from arcentra_server.domain.errors import AlreadyExists, NotFound, SecretUnreadable, ValidationError
from arcentra_server.domain.forge import Forge
from arcentra_server.domain.secret_box import KeyRing
from arcentra_server.services.hooks import HookService, NewHook
from arcentra_server.services.webhooks import WebhookService
from tests.support.clock import FakeClock
from tests.support.deliveries import SECRET, delivery
from tests.support.hooks import Hooks
from tests.support.world import World

UNKNOWN = UUID(int=7)


@pytest.fixture
def hooks(world: World) -> Hooks:
    return Hooks(world, FakeClock("2026-11-26T12:00:00"))


async def test_a_hook_is_made_with_a_secret(hooks: Hooks) -> None:
    row, secret = await hooks.service.create(NewHook("code", Forge.GITHUB), "alice")
    assert (row.namespace, row.name, row.forge, row.pipeline_id, row.created_by) == (
        "default",
        "code",
        Forge.GITHUB,
        None,
        "alice",
    )
    assert secret.startswith("arc_hook_")
    assert len(secret) == 9 + 64
    assert (await hooks.service.create(NewHook("other", Forge.GITLAB, secret=SECRET), "alice"))[1] == SECRET
    assert [hook.name for hook in await hooks.service.list_all("")] == ["code", "other"]
    assert await hooks.service.list_all("elsewhere") == []
    assert await hooks.webhooks().find(row.id) == row


async def test_what_a_hook_cannot_be(hooks: Hooks, world: World) -> None:
    create = hooks.service.create
    with pytest.raises(ValidationError) as refused:
        await create(NewHook("no name", Forge.GITHUB, namespace="x/y", secret="short"), "alice")
    assert [fault.path for fault in refused.value.faults] == ["name", "namespace", "secret"]
    for secret in ("x" * 257, "größer als sechzehn", "a tab\tin the middle", " space at an end "):
        with pytest.raises(ValidationError, match="secret"):
            await create(NewHook("x", Forge.GITHUB, secret=secret), "alice")
    with pytest.raises(NotFound):
        await create(NewHook("x", Forge.GITHUB, pipeline_id=UNKNOWN), "alice")
    pipeline = await world.pipeline(".")
    with pytest.raises(ValidationError, match="in namespace 'default', not 'other'"):
        await create(NewHook("x", Forge.GITHUB, namespace="other", pipeline_id=pipeline), "alice")
    await create(NewHook("x", Forge.GITHUB, pipeline_id=pipeline), "alice")
    with pytest.raises(AlreadyExists):
        await create(NewHook("x", Forge.GITEA), "alice")
    await create(NewHook("x", Forge.GITEA, namespace="other"), "alice")


async def test_rotate_and_delete(hooks: Hooks, world: World) -> None:
    hook = await hooks.hook(Forge.GITHUB)
    made = [await hooks.service.rotate(hook.id, "") for _ in range(2)]
    assert len({SECRET, *made}) == 3
    assert await world.value("SELECT secret_version FROM hooks") == 3
    with pytest.raises(ValidationError):
        await hooks.service.rotate(hook.id, "short")
    await hooks.service.delete(hook.id)
    for gone in (hooks.service.delete(hook.id), hooks.service.rotate(hook.id, "")):
        with pytest.raises(NotFound):
            await gone
    assert await world.value("SELECT count(*) FROM hook_secrets") == 0


async def test_secrets_are_stored_sealed_and_each_to_its_hook(hooks: Hooks, world: World) -> None:
    first, second = [await hooks.hook(Forge.GITHUB, name=name) for name in ("first", "second")]
    stored = await world.sql("SELECT wrapped_key || sealed AS bytes FROM hook_secrets")
    assert not any(SECRET.encode() in row["bytes"] for row in stored)
    one = delivery("github_ping")
    await hooks.deliver(first, one)
    # Moved to another hook it opens nothing.
    await world.sql(
        """UPDATE hook_secrets SET (wrapped_key, sealed) =
           (SELECT wrapped_key, sealed FROM hook_secrets WHERE hook_id = $1) WHERE hook_id = $2""",
        first.id,
        second.id,
    )
    with pytest.raises(SecretUnreadable):
        await hooks.deliver(second, one)


async def test_without_the_key_nothing_is_taken(hooks: Hooks, world: World) -> None:
    hook = await hooks.hook(Forge.GITHUB)
    other = KeyRing({"other": b"o" * 32})
    webhooks = WebhookService(world.database, other, world.server.starter.start, clock=hooks.clock)
    one = delivery("github_ping")
    with pytest.raises(SecretUnreadable):
        await webhooks.deliver(hook, one.headers, one.body)
    # A new key beside the old one: both are good.
    ring = KeyRing({"new": b"n" * 32, "test": b"s" * 32})
    service = HookService(world.database, ring, clock=hooks.clock)
    secret = await service.rotate(hook.id, "")
    webhooks = WebhookService(world.database, ring, world.server.starter.start, clock=hooks.clock)
    await webhooks.deliver(hook, one.headers, one.body)
    signed = one.signed(secret)
    await webhooks.deliver(hook, signed.headers, signed.body)
    async with world.database.transaction() as tx:
        secrets = await rows.good_secrets(tx, hook.id, hooks.clock.now)
    assert [secret.sealed.key.key_id for secret in secrets] == ["new", "test"]
