"""Concurrency keys: two who want several do not wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from arcentra_server.db import concurrency
from arcentra_server.db.engine import Database
from tests.support.world import World


@pytest.fixture
async def world(dsn: str) -> AsyncIterator[World]:
    async with World(dsn) as world:
        yield world
        await world.check()


async def take(database: Database, names: Sequence[str]) -> None:
    async with database.transaction() as tx:
        await concurrency.take(tx, [("default", name) for name in names], [], [])


async def test_keys_are_locked_in_one_order_whoever_wants_them(world: World) -> None:
    """Both wait for a key in the middle of what they want: each would have what the other wants next."""

    async def both_wait() -> None:
        async with world.database.transaction() as tx:
            await concurrency.take(tx, [("default", "middle")], [], [])
            held.set()
            while await tx.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < 2:
                pass

    async def wants(*names: str) -> None:
        await held.wait()
        await take(world.database, names)

    held = asyncio.Event()
    await asyncio.gather(both_wait(), wants("all", "middle", "zone"), wants("zone", "middle", "all"))
