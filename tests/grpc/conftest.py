"""One real server process for the tests of the wire, on a database of its own."""

from collections.abc import AsyncIterator

import pytest

from tests.support.postgres import Databases
from tests.support.server import Client, Server, client_of, running_server


@pytest.fixture(scope="session")
async def server(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with (
        databases.clone() as dsn,
        running_server(tmp_path_factory.mktemp("server") / "data", "--database-url", dsn) as server,
    ):
        yield server


@pytest.fixture
async def admin(server: Server) -> AsyncIterator[Client]:
    async with client_of(server) as client:
        yield client


@pytest.fixture(scope="session")
async def registration(server: Server) -> str:
    """A token with which the agents of the tests join."""
    return await server.command("registration-token", "create", "--max-uses", "1000")
