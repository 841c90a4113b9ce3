"""The tail on a real database: ids that commit in another order than they were taken, and ids that never come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import pytest

from arcentra_server.db.engine import Database
from arcentra_server.domain.errors import Unavailable
from arcentra_server.domain.execution import Resource
from arcentra_server.domain.states import AgentStatus
from arcentra_server.domain.watch import Filter, Scope
from arcentra_server.services.journal import Journal
from arcentra_server.services.journal.subscription import Interest, Overflow, Subscription
from tests.support import factories

AGENTS = Interest(Filter(frozenset({Resource.AGENT})), Scope())
_APPEND = "INSERT INTO events (resource, agent_id, status) VALUES ('agent', $1, 'IDLE') RETURNING id"


@pytest.fixture
async def agent_id(database: Database) -> UUID:
    async with database.transaction() as tx:
        return await factories.agent(tx)


@asynccontextmanager
async def reading(journal: Journal) -> AsyncIterator[None]:
    """Begin to read: the first pass finds where the journal is."""
    async with asyncio.TaskGroup() as group:
        opened, over = asyncio.Event(), asyncio.Event()

        async def read() -> None:
            async with journal.reading():
                opened.set()
                await over.wait()

        group.create_task(read())
        while not opened.is_set():
            await asyncio.sleep(0)  # lets the reader announce itself
            await journal.run_once()
        yield
        over.set()


async def taken(subscription: Subscription) -> list[int]:
    return [event.id for _, event in await subscription.take()]


async def append(connection: asyncpg.Connection, agent_id: UUID) -> int:
    """Write an event as services do: after another write of the transaction."""
    await connection.execute("SELECT pg_current_xact_id()")
    return int(await connection.fetchval(_APPEND, agent_id))


async def test_events_that_commit_out_of_order_are_told_in_order(database: Database, dsn: str, agent_id: UUID) -> None:
    journal = Journal(database)
    first, second = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        async with reading(journal):
            with journal.subscribed(AGENTS) as subscription:
                early, late = first.transaction(), second.transaction()
                await early.start()
                await late.start()
                one = await append(first, agent_id)
                two = await append(second, agent_id)
                await late.commit()
                await journal.run_once()
                await journal.run_once()
                assert journal.position < one
                await early.commit()
                await journal.run_once()
                assert await taken(subscription) == [one, two]
                assert journal.position == two
    finally:
        await first.close()
        await second.close()


async def test_an_id_that_was_rolled_back_is_passed_over(database: Database, dsn: str, agent_id: UUID) -> None:
    journal = Journal(database)
    first, second = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        async with reading(journal):
            with journal.subscribed(AGENTS) as subscription:
                lost = first.transaction()
                await lost.start()
                await append(first, agent_id)
                two = await append(second, agent_id)
                await journal.run_once()
                assert journal.position < two - 1
                await lost.rollback()
                await journal.run_once()
                assert await taken(subscription) == [two]
    finally:
        await first.close()
        await second.close()


async def test_a_journal_does_not_begin_before_what_ran_at_its_start_has_ended(
    database: Database, dsn: str, agent_id: UUID
) -> None:
    journal = Journal(database)
    first, second = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        early = first.transaction()
        await early.start()
        one = await append(first, agent_id)
        two = await append(second, agent_id)
        began = asyncio.Event()

        async def begin() -> None:
            async with reading(journal):
                began.set()
                assert journal.position == two

        async with asyncio.TaskGroup() as group:
            group.create_task(begin())
            for _ in range(3):
                await journal.run_once()
            assert not began.is_set()
            await early.commit()
        assert one < two
    finally:
        await first.close()
        await second.close()


async def test_a_watcher_that_does_not_take_is_cut_and_others_go_on(database: Database, agent_id: UUID) -> None:
    journal = Journal(database, limit=3)
    async with reading(journal):
        with journal.subscribed(AGENTS) as slow, journal.subscribed(AGENTS) as quick:
            seen = []
            for _ in range(5):
                async with database.transaction() as tx:
                    await factories.set_agent(tx, agent_id, AgentStatus.BUSY)
                await journal.run_once()
                seen += await taken(quick)
            assert len(seen) == 5
            with pytest.raises(Overflow):
                await slow.take()


async def test_a_journal_that_nobody_watches_does_not_touch_the_database(dsn: str) -> None:
    closed = Database(dsn)
    await Journal(closed).run_once()


async def test_streams_end_when_the_server_stops(database: Database) -> None:
    journal = Journal(database)
    async with reading(journal):
        with journal.subscribed(AGENTS) as subscription:
            journal.close()
            with pytest.raises(Unavailable):
                await subscription.take()
        with pytest.raises(Unavailable):
            async with journal.reading():
                pass
