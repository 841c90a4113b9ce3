"""Hints between servers, on a real database."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from arcentra_server.db.embedded import EmbeddedPostgres
from arcentra_server.db.engine import Database
from arcentra_server.db.notify import CHANNEL, LEAST_SECONDS, Hint, Hints
from tests.support.postgres import chosen_bindir, connected


@dataclass
class Server:
    """The hints of one server, and what it was woken for."""

    hints: Hints
    woken: asyncio.Queue[Hint] = field(default_factory=asyncio.Queue)

    @classmethod
    @asynccontextmanager
    async def on(cls, database: Database) -> AsyncIterator[Self]:
        """Run a server that listens; it has been woken for everything once, as it does when it begins."""
        woken: asyncio.Queue[Hint] = asyncio.Queue()
        hints = Hints(database, {hint: [lambda hint=hint: woken.put_nowait(hint)] for hint in Hint})  # type: ignore[misc]
        server = cls(hints, woken)
        async with asyncio.TaskGroup() as group:
            listener = group.create_task(hints.listen())
            await server.everything()
            yield server
            listener.cancel()

    async def tell(self, *kinds: Hint) -> None:
        for hint in kinds:
            self.hints.give(hint)
        await self.hints.run_once()

    async def heard(self) -> Hint:
        return await asyncio.wait_for(self.woken.get(), 60)

    async def everything(self) -> None:
        """Wait until it is woken for each kind."""
        assert {await self.heard() for _ in Hint} == set(Hint)


class Wire:
    """What goes over the channel, as anybody hears it."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[str] = asyncio.Queue()

    @classmethod
    @asynccontextmanager
    async def on(cls, dsn: str) -> AsyncIterator[Self]:
        wire = cls()
        async with connected(dsn) as connection:
            await connection.add_listener(CHANNEL, lambda *words: wire._said.put_nowait(str(words[3])))
            yield wire

    async def until(self, last: str) -> list[set[str]]:
        """Return the kinds of each notification before one that ends with a text: they come in order."""
        said = []
        while not (word := await asyncio.wait_for(self._said.get(), 60)).endswith(last):
            said.append(set(word.split(" ")[1].split(",")))
        return said


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    async with Database(dsn, pool_size=4) as database:
        yield database


@pytest.fixture
async def servers(database: Database) -> AsyncIterator[list[Server]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Server.on(database)) for _ in range(3)]


async def test_a_hint_reaches_all_servers_but_the_one_that_gave_it(servers: list[Server]) -> None:
    one, two, three = servers
    await one.tell(Hint.ORDER)
    assert [await two.heard(), await three.heard()] == [Hint.ORDER, Hint.ORDER]
    # Notifications come in the order of their commits: had the first one come back, it were there before this.
    await two.tell(Hint.KEYS)
    assert [await one.heard(), await three.heard()] == [Hint.KEYS, Hint.KEYS]


async def test_hints_of_one_moment_go_out_together_each_kind_once(database: Database, dsn: str) -> None:
    hints = Hints(database, {})
    async with Wire.on(dsn) as wire:
        for _ in range(100):
            hints.give(Hint.CHANGE)
            hints.give(Hint.WORK)
        await hints.run_once()
        await hints.run_once()  # there is nothing left to say
        await _say(database, "end")
        assert await wire.until("end") == [{Hint.CHANGE, Hint.WORK}]


async def test_hints_that_come_while_one_waits_its_turn_go_with_it(database: Database, dsn: str) -> None:
    hints = Hints(database, {}, clock=lambda: 7.0)  # it stands still: the second must wait the whole time
    async with Wire.on(dsn) as wire:
        hints.give(Hint.WORK)
        await hints.run_once()
        hints.give(Hint.CHANGE)
        async with asyncio.TaskGroup() as group:
            group.create_task(hints.run_once())
            await asyncio.sleep(0)
            hints.give(Hint.ORDER)
        await _say(database, "end")
        assert await wire.until("end") == [{Hint.WORK}, {Hint.CHANGE, Hint.ORDER}]
    with pytest.raises(TimeoutError):  # all of it is said: nobody is woken to say it again
        async with asyncio.timeout(0):
            await hints.wait()


async def test_there_is_a_tenth_of_a_second_between_two_notifications(database: Database, dsn: str) -> None:
    hints = Hints(database, {})
    rounds = 6
    async with Wire.on(dsn) as wire:
        begun = time.monotonic()
        for _ in range(rounds):
            for hint in list(Hint) * 50:
                hints.give(hint)
            await hints.run_once()
        took = time.monotonic() - begun
        await _say(database, "end")
        assert len(await wire.until("end")) == rounds
    assert took >= (rounds - 1) * LEAST_SECONDS


async def test_words_of_a_newer_server_are_passed_over(database: Database, servers: list[Server]) -> None:
    await _say(database, f"newer rain,{Hint.KEYS},snow")
    await _say(database, "")
    await _say(database, f"newer {Hint.WORK}")
    assert [await servers[0].heard() for _ in range(2)] == [Hint.KEYS, Hint.WORK]


async def test_a_connection_that_is_ended_comes_back_and_wakes_for_everything(dsn: str, servers: list[Server]) -> None:
    async with connected(dsn) as connection:
        # What the pool's connections ran last is something else.
        ended = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN%' AND pid <> pg_backend_pid()"
        )
    assert len(ended) == len(servers)
    for server in servers:
        await server.everything()
    await servers[0].tell(Hint.ORDER)
    assert [await server.heard() for server in servers[1:]] == [Hint.ORDER, Hint.ORDER]


async def test_a_database_that_restarts_is_listened_to_again(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data", bindir=chosen_bindir()) as postgres, AsyncExitStack() as stack:
        # As two processes have them: each a database of its own.
        databases = [await stack.enter_async_context(Database(postgres.dsn(), pool_size=2)) for _ in range(2)]
        one, two = [await stack.enter_async_context(Server.on(database)) for database in databases]
        await postgres.stop()
        await postgres.start()
        await one.everything()
        await two.everything()
        await one.tell(Hint.CHANGE)
        assert await two.heard() is Hint.CHANGE


async def _say(database: Database, payload: str) -> None:
    async with database.transaction() as tx:
        await tx.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)
