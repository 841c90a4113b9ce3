"""Secrets in the database: opened for whom they are meant, refused when anything about them was changed."""

import os
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from arcentra_server.db.engine import Database, new_id
from arcentra_server.db.vault import Opened, Vault
from arcentra_server.domain.errors import SecretUnreadable
from arcentra_server.domain.secret_box import KeyRing
from arcentra_server.domain.secret_names import SecretScope
from arcentra_server.services.secrets import SecretService
from tests.support import factories
from tests.support.secret_keys import KEYS, secret_service, vault


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    async with Database(dsn) as database:
        yield database


@pytest.fixture
def service(database: Database) -> SecretService:
    return secret_service(database)


async def pipeline(database: Database, namespace: str = "default") -> UUID:
    async with database.transaction() as tx:
        return await factories.pipeline(tx, namespace=namespace)


async def opened(database: Database, *wanted: tuple[str, UUID, str], keys: Vault | None = None) -> Opened:
    async with database.transaction() as tx:
        return await (keys or vault()).values(tx, wanted)


async def test_the_narrowest_scope_that_has_a_secret_wins(database: Database, service: SecretService) -> None:
    one, two, far = await pipeline(database), await pipeline(database), await pipeline(database, "far")
    await service.set(SecretScope(), "A", "a of all", "t")
    await service.set(SecretScope("default"), "A", "a of default", "t")
    await service.set(SecretScope("default", one), "A", "a of one", "t")
    await service.set(SecretScope("far"), "B", "b of far", "t")
    await service.set(SecretScope("", two), "C", "c of two", "t")
    wanted = [
        (namespace, p, name) for namespace, p in (("default", one), ("default", two), ("far", far)) for name in "ABC"
    ]
    found = await opened(database, *wanted, *wanted)
    assert found.faults == {}
    assert found.values == {
        ("default", one, "A"): "a of one",
        ("default", two, "A"): "a of default",
        ("default", two, "C"): "c of two",
        ("far", far, "A"): "a of all",
        ("far", far, "B"): "b of far",
    }
    async with database.transaction() as tx:
        keys = vault()
        assert await keys.missing(tx, "default", one, ["A", "B", "C"]) == {"B", "C"}
        assert await keys.missing(tx, "default", two, ["A", "B", "C"]) == {"B"}
        assert await keys.missing(tx, "far", far, {"A", "B", "C"}) == {"C"}
        assert await keys.missing(tx, "far", far, []) == set()
        assert await keys.values(tx, []) == Opened({}, {})


async def test_the_namespace_that_a_caller_names_is_no_way_to_the_secrets_of_another_pipeline(
    database: Database, service: SecretService
) -> None:
    one = await pipeline(database)
    await service.set(SecretScope("", one), "A", "a of one", "t")
    assert (await opened(database, ("far", one, "A"), ("", one, "A"))).values == {}


async def test_swapped_rows_are_refused_each_by_itself(database: Database, service: SecretService) -> None:
    one = await pipeline(database)
    for name in ("A", "B", "C"):
        await service.set(SecretScope("default"), name, f"value of {name}", "t")
    async with database.transaction() as tx:
        await tx.execute("""
            UPDATE secrets s SET wrapped_key = o.wrapped_key, sealed = o.sealed
              FROM secrets o WHERE (s.name, o.name) IN (('A', 'B'), ('B', 'A'))
        """)
    found = await opened(database, *(("default", one, name) for name in "ABC"))
    assert found.values == {("default", one, "C"): "value of C"}
    assert set(found.faults) == {("default", one, "A"), ("default", one, "B")}
    assert all(isinstance(fault, SecretUnreadable) for fault in found.faults.values())


@pytest.mark.parametrize(
    "change",
    [
        "name = 'B'",
        "namespace = 'far'",
        "version = 2",
        "algorithm = 'ROT13'",
        "key_id = 'other'",
        "sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1)",
        "wrapped_key = set_byte(wrapped_key, 20, get_byte(wrapped_key, 20) # 1)",
        "sealed = ''",
        "wrapped_key = ''",
    ],
)
async def test_a_row_that_was_changed_is_refused(database: Database, service: SecretService, change: str) -> None:
    one, far = await pipeline(database), await pipeline(database, "far")
    await service.set(SecretScope("default"), "A", "planted-value", "t")
    wanted = [("default", one, "A"), ("default", one, "B"), ("far", far, "A")]
    # A vault that has opened it before refuses it as well.
    keys = vault()
    assert len((await opened(database, *wanted, keys=keys)).values) == 1
    async with database.transaction() as tx:
        await tx.execute(f"UPDATE secrets SET {change}")  # noqa: S608 - constants of this test
    for each in (keys, vault()):
        found = await opened(database, *wanted, keys=each)
        assert found.values == {}
        assert len(found.faults) == 1


async def test_without_its_key_a_secret_is_a_fault_and_others_open(database: Database, service: SecretService) -> None:
    one = await pipeline(database)
    other = KeyRing({"other": os.urandom(32)})
    await service.set(SecretScope(), "A", "a", "t")
    await secret_service(database, other).set(SecretScope(), "B", "b", "t")
    found = await opened(database, ("default", one, "A"), ("default", one, "B"))
    assert found.values == {("default", one, "A"): "a"}
    assert str(found.faults["default", one, "B"]) == "secret key unavailable"
    wrong = await opened(database, ("default", one, "A"), keys=Vault(KeyRing({"test": b"x" * 32})))
    assert str(wrong.faults["default", one, "A"]) == "secret key unavailable"


async def test_several_keys_open_what_each_has_sealed(database: Database, service: SecretService) -> None:
    one = await pipeline(database)
    new = os.urandom(32)
    await service.set(SecretScope(), "A", "a", "t")
    await secret_service(database, KeyRing({"new": new})).set(SecretScope(), "B", "b", "t")
    both = Vault(KeyRing({"new": new, "test": b"s" * 32}))
    assert len((await opened(database, ("default", one, "A"), ("default", one, "B"), keys=both)).values) == 2


async def test_what_is_opened_does_not_show_itself(database: Database, service: SecretService) -> None:
    one = await pipeline(database)
    await service.set(SecretScope(), "A", "planted-value", "t")
    found = await opened(database, ("default", one, "A"))
    assert "planted-value" not in repr(found) + str(found) + repr(vault())


async def test_nothing_of_a_value_is_in_its_row(database: Database, service: SecretService) -> None:
    await service.set(SecretScope(), "A", "planted-value", "t")
    async with database.transaction() as tx:
        row = await tx.fetchrow("SELECT * FROM secrets")
    assert row is not None
    assert b"planted" not in row["sealed"] + row["wrapped_key"]
    assert "planted" not in repr(row)
    assert KEYS.key_ids == (row["key_id"],)


async def test_a_secret_is_there_once_and_goes_with_its_pipeline(dsn: str) -> None:
    insert = """INSERT INTO secrets (id, namespace, pipeline_id, name, algorithm, key_id, wrapped_key, sealed)
                VALUES ($1, $2, $3, 'A', '', '', '', '')"""
    async with Database(dsn) as database, database.transaction() as tx:
        one = await factories.pipeline(tx)
        for namespace, pipeline_id in (("", None), ("default", None), ("default", one)):
            await tx.execute(insert, new_id(), namespace, pipeline_id)
            with pytest.raises(asyncpg.UniqueViolationError):
                async with tx.transaction():
                    await tx.execute(insert, new_id(), namespace, pipeline_id)
        with pytest.raises(asyncpg.CheckViolationError):
            async with tx.transaction():
                await tx.execute(insert, new_id(), "", one)
        await tx.execute("DELETE FROM pipelines")
        assert await tx.fetchval("SELECT count(*) FROM secrets") == 2
