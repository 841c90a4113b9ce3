"""The databases that tests get one after another: nothing of one test is left for the next."""

from __future__ import annotations

import asyncpg
import pytest

from tests.support.postgres import Databases, connected

_SELECTOR = "INSERT INTO selectors (digest, document) VALUES (sha256(random()::text::bytea), '[]') RETURNING id"


async def test_a_database_comes_back_without_rows_and_counts_from_one(databases: Databases) -> None:
    async with databases.lend() as first, connected(first) as connection:
        assert [await connection.fetchval(_SELECTOR) for _ in range(3)] == [1, 2, 3]
    async with databases.lend() as second, connected(second) as connection:
        assert second == first
        assert await connection.fetchval("SELECT count(*) FROM selectors") == 0
        assert await connection.fetchval("SELECT count(*) FROM alembic_version") == 1
        assert await connection.fetchval(_SELECTOR) == 1


async def test_what_a_test_left_open_is_cut_off(databases: Databases) -> None:
    async with databases.lend() as dsn:
        left = await asyncpg.connect(dsn)
        await left.execute("BEGIN")
        await left.fetchval(_SELECTOR)
    try:
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await left.execute("COMMIT")
        async with databases.lend() as again, connected(again) as connection:
            assert again == dsn
            assert await connection.fetchval("SELECT count(*) FROM selectors") == 0
    finally:
        left.terminate()


async def test_the_schema_of_a_database_that_others_get_cannot_be_changed(databases: Databases) -> None:
    async with databases.lend() as dsn, connected(dsn) as connection:
        with pytest.raises(asyncpg.RaiseError, match="change the schema of a Databases"):
            await connection.execute("ALTER TABLE pipeline_runs ADD COLUMN more text")
    async with databases.clone() as dsn, connected(dsn) as connection:
        await connection.execute("CREATE TABLE more (id int)")


async def test_two_at_a_time_are_two(databases: Databases) -> None:
    async with databases.lend() as one, databases.lend() as other, databases.clone() as third:
        assert len({one, other, third}) == 3
