"""What is committed when."""

from __future__ import annotations

from contextlib import suppress

import asyncpg
import pytest

from arcentra_server.db.engine import Database, Tx
from arcentra_server.domain.errors import GivenUp, NoRoom, Unavailable

COUNT = "SELECT count(*) FROM selectors"
STORE = "INSERT INTO selectors (digest, document) VALUES ($1, '[]')"


async def stored_twice(tx: Tx, other: Tx) -> int:
    """Store a row and fail at once; return how many another connection saw meanwhile."""
    await tx.execute(STORE, b"one")
    seen: int = await other.fetchval(COUNT)
    with suppress(asyncpg.UniqueViolationError):
        await tx.execute(STORE, b"one")
    return seen


async def test_each_statement_is_committed_when_it_returns(dsn: str) -> None:
    async with Database(dsn) as database, database.transaction() as other:
        async with database.statements() as tx:
            assert await stored_twice(tx, other) == 1
        assert await other.fetchval(COUNT) == 1


async def test_transaction_is_committed_as_a_whole_or_not_at_all(dsn: str) -> None:
    async with Database(dsn) as database, database.statements() as other:
        async with database.transaction() as tx:
            assert await stored_twice(tx, other) == 0
        assert await other.fetchval(COUNT) == 0


async def test_statement_without_a_database_is_unavailable(dsn: str) -> None:
    database = Database(dsn)
    with pytest.raises(Unavailable):
        async with database.statements():
            pass
    async with database:
        with pytest.raises(Unavailable):
            async with database.statements() as tx:
                await tx.execute("SELECT pg_terminate_backend(pg_backend_pid())")


async def test_statement_that_takes_too_long_is_given_up_by_a_database_that_is_there(dsn: str) -> None:
    async def take_too_long(database: Database) -> None:
        async with database.statements() as tx:
            await tx.execute("SELECT set_config('statement_timeout', '50ms', false)")
            await tx.execute("SELECT pg_sleep(60)")

    async with Database(dsn) as database:
        with pytest.raises(GivenUp):
            await take_too_long(database)
        async with database.statements() as tx:
            assert await tx.fetchval("SELECT 1") == 1


async def test_want_of_room_is_told_from_want_of_time(dsn: str) -> None:
    async with Database(dsn) as database:
        for code, kind in (("53100", NoRoom), ("53300", NoRoom), ("57014", GivenUp)):
            with pytest.raises(GivenUp) as raised:
                async with database.statements() as tx:
                    await tx.execute(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$")
            assert type(raised.value) is kind
