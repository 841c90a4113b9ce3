"""From an empty database to the schema, again, at once, and from the future."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from arcentra_server.db import tables
from arcentra_server.db.embedded import EmbeddedPostgres
from arcentra_server.db.migrate import MigrationError, async_engine, current, head, upgrade


@asynccontextmanager
async def empty_database(server: EmbeddedPostgres, name: str) -> AsyncIterator[str]:
    admin = await asyncpg.connect(server.dsn("postgres"))
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        yield server.dsn(name)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


async def test_upgrade_from_empty_and_again(postgres: EmbeddedPostgres) -> None:
    async with empty_database(postgres, "migrated_twice") as dsn:
        assert await current(dsn) is None
        ran = await upgrade(dsn)
        assert (ran[-1], await current(dsn)) == (head(), head())
        assert await upgrade(dsn) == []


async def test_servers_that_start_together_migrate_once(postgres: EmbeddedPostgres) -> None:
    async with empty_database(postgres, "migrated_together") as dsn:
        done = await asyncio.gather(*(upgrade(dsn) for _ in range(3)))
        assert sorted(map(len, done))[:2] == [0, 0]
        assert await current(dsn) == head()


async def test_database_of_a_newer_version_is_refused(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    finally:
        await connection.close()
    with pytest.raises(MigrationError, match=r"at revision 9999.* written by a newer version"):
        await upgrade(dsn)
    assert await current(dsn) == "9999"


async def test_migrations_make_the_schema_that_is_described(dsn: str) -> None:
    def compare(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, tables.metadata))

    engine = async_engine(dsn)
    try:
        async with engine.connect() as connection:
            assert await connection.run_sync(compare) == []
    finally:
        await engine.dispose()
