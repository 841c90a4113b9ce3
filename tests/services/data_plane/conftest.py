"""A database for tests that make their rows themselves."""

from collections.abc import AsyncIterator

import pytest

from arcentra_server.db.engine import Database


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """Connections to the test's own database."""
    async with Database(dsn, pool_size=8) as database:
        yield database
