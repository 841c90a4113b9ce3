"""The start of a server: in which order it listens, and begins to watch agents."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.postgres import Databases, connected
from tests.support.server import start_server

pytestmark = pytest.mark.slow
_SILENT = "INSERT INTO agents (id, name, lease_until) VALUES (gen_random_uuid(), 'x', now() - interval '1 h')"
_IN_TIME = "SELECT lease_until > clock_timestamp() FROM agents"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _listens(port: int) -> bool:
    with suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


async def test_agents_can_call_before_their_leases_are_renewed_and_none_is_lost_before(
    databases: Databases, tmp_path: Path
) -> None:
    port = _free_port()
    async with databases.clone() as dsn, connected(dsn) as connection:
        await connection.execute(_SILENT)
        async with asyncio.TaskGroup() as group, connection.transaction():
            await connection.execute("SELECT FROM agents FOR UPDATE")
            starting = group.create_task(
                start_server(tmp_path / "data", "--database-url", dsn, grpc=f"127.0.0.1:{port}")
            )
            while not await _listens(port):
                assert not starting.done(), starting
                await asyncio.sleep(0.05)
            assert not starting.done()
        server = await starting
        try:
            assert await connection.fetchval(_IN_TIME)
        finally:
            await server.stop()
