"""Secrets as they are administered."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from arcentra_server.db.engine import Database, new_id
from arcentra_server.domain.errors import ArcentraError, NotFound, ValidationError
from arcentra_server.domain.secret_box import KeyRing
from arcentra_server.domain.secret_names import NOT_MASKED, SHORT, SecretScope
from arcentra_server.services.secrets import SecretService
from tests.support import factories
from tests.support.secret_keys import secret_service, vault

GLOBAL = SecretScope()


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    async with Database(dsn) as database:
        yield database


@pytest.fixture
def service(database: Database) -> SecretService:
    return secret_service(database)


async def test_a_value_that_is_set_again_replaces_the_one_before(database: Database, service: SecretService) -> None:
    async with database.transaction() as tx:
        pipeline_id = await factories.pipeline(tx)
    assert (await service.set(GLOBAL, "A", "first value", "ada")).version == 1
    assert (await service.set(GLOBAL, "A", "second value", "eve")).version == 2
    [row] = await service.list_all("", None)
    assert (row.scope, row.name, row.version, row.updated_by) == (GLOBAL, "A", 2, "eve")
    assert row.updated_at > row.created_at
    wanted = ("default", pipeline_id, "A")
    async with database.transaction() as tx:
        assert (await vault().values(tx, [wanted])).values == {wanted: "second value"}
        assert await tx.fetchval("SELECT count(*) FROM secrets") == 1


async def test_what_is_set_at_the_same_time_is_set_one_after_the_other(service: SecretService) -> None:
    stored = await asyncio.gather(*(service.set(GLOBAL, "A", f"value {number}", "t") for number in range(8)))
    assert sorted(secret.version for secret in stored) == list(range(1, 9))


async def test_a_value_that_is_too_short_to_be_masked_is_stored_with_a_warning(service: SecretService) -> None:
    assert (await service.set(GLOBAL, "A", "12345", "t")).warnings == [NOT_MASKED]
    assert (await service.set(GLOBAL, "A", "1234567", "t")).warnings == [SHORT]
    assert (await service.set(GLOBAL, "A", "12345678", "t")).warnings == []


async def test_scopes_are_told_apart_and_listed(database: Database, service: SecretService) -> None:
    async with database.transaction() as tx:
        one, far = await factories.pipeline(tx), await factories.pipeline(tx, namespace="far")
    for scope in (GLOBAL, SecretScope("default"), SecretScope("", one), SecretScope("far", far), SecretScope("far")):
        assert (await service.set(scope, "A", "some value", "t")).version == 1

    async def listed(namespace: str, pipeline_id: object = None) -> list[SecretScope]:
        return [row.scope for row in await service.list_all(namespace, pipeline_id)]  # type: ignore[arg-type]

    assert await listed("") == [
        GLOBAL, SecretScope("default"), SecretScope("default", one), SecretScope("far"), SecretScope("far", far),
    ]  # fmt: skip
    assert await listed("far") == [SecretScope("far"), SecretScope("far", far)]
    assert await listed("", one) == [SecretScope("default", one)]
    assert await listed("far", one) == []


async def test_a_deleted_secret_is_gone_and_begins_anew(service: SecretService) -> None:
    await service.set(SecretScope("default"), "A", "some value", "t")
    with pytest.raises(NotFound):
        await service.delete(GLOBAL, "A")
    await service.delete(SecretScope("default"), "A")
    assert await service.list_all("", None) == []
    with pytest.raises(NotFound):
        await service.delete(SecretScope("default"), "A")
    assert (await service.set(SecretScope("default"), "A", "some value", "t")).version == 1


async def test_a_deleted_pipeline_keeps_its_secrets_and_takes_no_more(
    database: Database, service: SecretService
) -> None:
    async with database.transaction() as tx:
        one = await factories.pipeline(tx)
    scope = SecretScope("", one)
    await service.set(scope, "A", "some value", "t")
    async with database.transaction() as tx:
        await tx.execute("UPDATE pipelines SET deleted_at = clock_timestamp()")
    with pytest.raises(NotFound):
        await service.set(scope, "A", "some value", "t")
    assert len(await service.list_all("", one)) == 1
    await service.delete(scope, "A")
    assert await service.list_all("", one) == []


@pytest.mark.parametrize(
    ("scope", "name", "value", "paths"),
    [
        (GLOBAL, "1A", "planted-value", ["name"]),
        (GLOBAL, "planted-value", "x", ["name"]),
        (SecretScope("no good"), "", "", ["namespace", "name", "value"]),
        (GLOBAL, "A", "planted-value\0", ["value"]),
        (GLOBAL, "A", "planted-value" * 6_000, ["value"]),
        (SecretScope("", new_id()), "A", "planted-value", None),
    ],
)
async def test_what_is_refused_is_named_and_not_shown(
    service: SecretService, scope: SecretScope, name: str, value: str, paths: list[str] | None
) -> None:
    with pytest.raises(ArcentraError) as refused:
        await service.set(scope, name, value, "t")
    assert "planted-value" not in str(refused.value)
    if isinstance(refused.value, ValidationError):
        assert [fault.path for fault in refused.value.faults] == paths
    else:
        assert isinstance(refused.value, NotFound)
        assert paths is None
    assert await service.list_all("", None) == []


async def test_a_pipeline_of_another_namespace_is_not_found(database: Database, service: SecretService) -> None:
    async with database.transaction() as tx:
        one = await factories.pipeline(tx)
    with pytest.raises(NotFound, match="in namespace 'far'"):
        await service.set(SecretScope("far", one), "A", "some value", "t")
    await service.set(SecretScope("default", one), "A", "some value", "t")
    with pytest.raises(NotFound):
        await service.delete(SecretScope("far", one), "A")


async def test_at_the_start_it_is_said_which_keys_are_missing(database: Database, service: SecretService) -> None:
    await secret_service(database, KeyRing({"lost": os.urandom(32)})).set(GLOBAL, "A", "planted-value", "t")
    with capture_logs() as said:
        await service.check_keys()
    assert [(line["event"], line["key_id"], line["secrets"]) for line in said] == [("secrets_unreadable", "lost", 1)]
    with capture_logs() as said:
        await service.set(GLOBAL, "A", "planted-value", "t")
        await service.check_keys()
    assert said == []


async def test_at_the_start_it_is_said_that_another_server_has_another_key(database: Database) -> None:
    """Also while no secret is stored, and when the keys go by one name. A key that is rotated is the same key."""

    async def told(keys: dict[str, bytes]) -> list[str]:
        with capture_logs() as said:
            await secret_service(database, KeyRing(keys)).check_keys()
        return [line["event"] for line in said]

    here, there, new = (os.urandom(32) for _ in range(3))
    assert await told({"key-1": here}) == []
    assert await told({"key-1": there}) == ["secrets_key_differs"]
    assert await told({"key-1": here}) == ["secrets_key_differs"]
    assert await told({"key-1": here}) == []
    await secret_service(database, KeyRing({"key-1": here})).set(GLOBAL, "A", "planted-value", "t")
    for _ in range(2):
        assert await told({"key-1": there}) == ["secrets_key_differs", "secrets_unreadable"]
    assert await told({"key-2": new, "key-1": here}) == []
    assert await told({"key-1": here}) == ["secrets_key_differs"]
