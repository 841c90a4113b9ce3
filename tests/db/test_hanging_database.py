"""Who gives up while the database hangs: the call ends before the database goes on, and its connection is nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator

import pytest

from arcentra_server.db import engine
from arcentra_server.db.embedded import EmbeddedPostgres
from arcentra_server.db.engine import Database, Tx
from arcentra_server.domain.errors import NotFound
from tests.support.freezer import Freezer
from tests.support.postgres import connected

STORE = "INSERT INTO selectors (digest, document) VALUES ($1, '[]')"
POOL = 2
Call = Callable[[Database, Freezer], Coroutine[None, None, None]]


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "GRACE_SECONDS", 0.2)


@pytest.fixture
def freezer(postgres: EmbeddedPostgres) -> Iterator[Freezer]:
    with Freezer(postgres.pid) as freezer:
        yield freezer


async def statement(database: Database, freezer: Freezer) -> None:
    async with database.statements() as tx:
        freezer.freeze()
        await tx.execute(STORE, b"one")


async def statement_of_transaction(database: Database, freezer: Freezer) -> None:
    async with database.transaction() as tx:
        await tx.execute(STORE, b"one")
        freezer.freeze()
        await tx.execute(STORE, b"two")


async def between_statements(database: Database, freezer: Freezer) -> None:
    async with database.transaction() as tx:
        await tx.execute(STORE, b"one")
        freezer.freeze()
        await asyncio.Event().wait()


async def begin(database: Database, freezer: Freezer) -> None:
    async with database.statements() as tx:
        await tx.execute("SELECT 1")
    freezer.freeze()
    async with database.transaction():
        pytest.fail("a transaction began while the database hung")


async def commit(database: Database, freezer: Freezer) -> None:
    async with database.transaction() as tx:
        await tx.execute(STORE, b"committed")
        freezer.freeze()


async def serves_again(database: Database) -> None:
    """Use as many connections at once as there are, each without anything of who had it before."""
    together = asyncio.Barrier(POOL)

    async def use() -> None:
        async with database.transaction() as tx:
            await together.wait()
            assert await tx.fetchval("SELECT count(*) FROM selectors WHERE digest <> 'committed'") == 0
            assert await tx.fetchval("SELECT now() = statement_timestamp()") is False, "the transaction is not its own"

    async with asyncio.TaskGroup() as group:
        for _ in range(POOL):
            group.create_task(use())


@pytest.mark.parametrize("call", [statement_of_transaction, between_statements, begin, commit, statement])
async def test_call_that_is_given_up_ends_while_the_database_hangs(dsn: str, freezer: Freezer, call: Call) -> None:
    async with Database(dsn, pool_size=POOL) as database, asyncio.TaskGroup() as group:
        task = group.create_task(call(database, freezer))
        await freezer.frozen.wait()
        task.cancel()
        await asyncio.wait([task])
        assert freezer.frozen.is_set(), "the call waited for the database"
        assert task.cancelled()
        freezer.thaw()
        if call is statement:  # it was sent: whether it was done is not known
            async with connected(dsn) as other:
                await other.execute("DELETE FROM selectors")
        await serves_again(database)


async def test_no_connection_is_lost_by_as_many_calls_as_there_are(dsn: str, freezer: Freezer) -> None:
    async with Database(dsn, pool_size=POOL) as database, asyncio.TaskGroup() as group:

        async def wait(together: asyncio.Barrier) -> None:
            async with database.transaction() as tx:
                await together.wait()
                if not freezer.frozen.is_set():
                    freezer.freeze()
                await tx.execute(STORE, b"one")

        together = asyncio.Barrier(POOL)
        tasks = [group.create_task(wait(together)) for _ in range(POOL)]
        await freezer.frozen.wait()
        await asyncio.sleep(0)
        # This one waits for a connection of those, and then opens one of its own, which the database does not answer.
        tasks.append(group.create_task(wait(together)))
        for task in tasks[:POOL]:
            task.cancel()
        await asyncio.wait(tasks[:POOL])
        await asyncio.sleep(0)
        tasks[POOL].cancel()
        await asyncio.wait(tasks)
        assert freezer.frozen.is_set(), "a call waited for the database"
        assert [task.cancelled() for task in tasks] == [True] * (POOL + 1)
        freezer.thaw()
        await serves_again(database)


async def test_statement_that_is_given_up_leaves_its_connection_to_others(dsn: str) -> None:
    """Where the database answers: a new connection costs it more."""
    pids = []

    async def wait(database: Database, entered: asyncio.Event) -> None:
        async with database.transaction() as tx:
            pids.append(await tx.fetchval("SELECT pg_backend_pid()"))
            entered.set()
            await tx.execute("SELECT pg_sleep(3600)")

    async with Database(dsn, pool_size=POOL) as database, asyncio.TaskGroup() as group:
        task = group.create_task(wait(database, entered := asyncio.Event()))
        await entered.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        async with database.statements() as tx:
            pids.append(await tx.fetchval("SELECT pg_backend_pid()"))
    assert pids[0] == pids[1]


async def _lose(dsn: str, tx: Tx) -> None:
    async with connected(dsn) as other:
        await other.execute("SELECT pg_terminate_backend($1, 60000)", tx.get_server_pid())


async def test_cancellation_is_not_lost_with_the_connection(dsn: str) -> None:
    """Who is to end would take the error for one of the database, and go on."""

    async def wait(database: Database, entered: asyncio.Event) -> None:
        async with database.transaction() as tx:
            await _lose(dsn, tx)
            entered.set()
            await asyncio.Event().wait()

    async with Database(dsn) as database, asyncio.TaskGroup() as group:
        task = group.create_task(wait(database, entered := asyncio.Event()))
        await entered.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_refusal_is_not_lost_with_the_connection(dsn: str) -> None:
    async def refuse(database: Database) -> None:
        async with database.transaction() as tx:
            await _lose(dsn, tx)
            raise NotFound("no such thing")

    async with Database(dsn) as database:
        with pytest.raises(NotFound):
            await refuse(database)
