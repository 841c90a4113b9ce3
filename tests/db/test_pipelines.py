"""Pipelines by their name, while others change what has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from arcentra_server.services.pipelines import Applied, NewPipeline
from tests.support.shapes import shape
from tests.support.world import World


@pytest.fixture
async def world(dsn: str) -> AsyncIterator[World]:
    async with World(dsn) as world:
        yield world
        await world.check()


Change = tuple[str, UUID]
NAMED_A = "UPDATE pipelines SET name = 'a' WHERE id = $1"
NAMED_B = "UPDATE pipelines SET name = 'b' WHERE id = $1"
NAMED_C = "UPDATE pipelines SET name = 'c' WHERE id = $1"
DELETED = "UPDATE pipelines SET deleted_at = clock_timestamp() WHERE id = $1"


async def applied_during(world: World, *changes: Change) -> Applied:
    """Apply a definition named `a` while these changes, which are made, are not committed yet."""
    changed = asyncio.Event()

    async def change() -> None:
        async with world.database.transaction() as tx:
            for change, pipeline_id in changes:
                await tx.execute(change, pipeline_id)
            changed.set()
            while not await tx.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                pass  # the other one is on its way to the lock

    async def apply() -> Applied:
        await changed.wait()
        return await world.server.pipelines.apply(NewPipeline(shape("..."), name="a"), "bob")

    _, applied = await asyncio.gather(change(), apply())
    return applied


async def existing(world: World, name: str) -> UUID:
    return (await world.server.pipelines.apply(NewPipeline(shape("."), name=name), "ann")).pipeline.id


async def test_apply_does_not_write_into_a_pipeline_that_gets_another_name_meanwhile(world: World) -> None:
    known = await existing(world, "a")
    applied = await applied_during(world, (NAMED_B, known))
    assert (applied.pipeline.name, applied.created) == ("a", True)
    assert (await world.server.pipelines.get(known)).spec_version == 1


async def test_apply_writes_into_the_pipeline_that_gets_the_name_meanwhile(world: World) -> None:
    first, second = await existing(world, "a"), await existing(world, "b")
    applied = await applied_during(world, (NAMED_C, first), (NAMED_A, second))
    assert (applied.pipeline.id, applied.created, applied.pipeline.spec_version) == (second, False, 2)
    assert (await world.server.pipelines.get(first)).spec_version == 1


async def test_apply_makes_a_new_pipeline_where_the_old_one_is_deleted_meanwhile(world: World) -> None:
    known = await existing(world, "a")
    applied = await applied_during(world, (DELETED, known))
    assert applied.created
    assert applied.pipeline.id != known
