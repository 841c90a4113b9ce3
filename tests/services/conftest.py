"""Fixtures of the tests that run services on a real database."""

from collections.abc import AsyncIterator

import pytest

from tests.support.world import World


@pytest.fixture
async def world(dsn: str) -> AsyncIterator[World]:
    """A server without a transport; at the end all rows must fit together."""
    async with World(dsn) as world:
        yield world
        await world.check()
