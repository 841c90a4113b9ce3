"""The start of a server: in which order it listens and begins to watch agents, and what it sets for its process."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from arcentra_api.pipeline.v1 import pipeline_pb2
from tests.support.postgres import Databases, connected
from tests.support.server import client_of, running_server, start_server

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


async def _young_looked_through(http: str) -> int:
    """Return how often the server looked through its young objects for garbage, as its metrics say."""
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{http}/metrics").read().decode())
    found = re.search(r'^python_gc_collections_total\{generation="0"\} (\S+)$', page, re.MULTILINE)
    assert found is not None, page
    return int(float(found[1]))


async def test_garbage_is_looked_for_seldom(databases: Databases, tmp_path: Path) -> None:
    jobs = "\n".join(
        f"  - {{name: job-{number}, steps: [{{name: one, uses: shell, args: {{script: 'true'}}}}]}}"
        for number in range(500)
    )
    request = pipeline_pb2.ValidatePipelineRequest(document=f"name: wide\njobs:\n{jobs}\n")
    async with (
        databases.clone() as dsn,
        running_server(tmp_path / "data", "--database-url", dsn) as server,
        client_of(server) as client,
    ):
        before = await _young_looked_through(server.http)
        for _ in range(4):
            assert (await client.pipeline.ValidatePipeline(request, metadata=client.metadata)).valid
        # With Python's defaults it would be dozens of times: once for 700 objects more than before.
        assert await _young_looked_through(server.http) - before <= 3


@pytest.mark.skipif(sys.platform != "linux", reason="there are no batch threads elsewhere")
async def test_only_the_event_loop_interrupts_others(databases: Databases, tmp_path: Path) -> None:
    async with databases.clone() as dsn, running_server(tmp_path / "data", "--database-url", dsn) as server:
        pid = server.process.pid
        policies = {
            int(task.name): os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()
        }
    assert policies.pop(pid) == os.SCHED_OTHER
    assert len(policies) >= 3, "gRPC has threads of its own"
    assert set(policies.values()) == {os.SCHED_BATCH}
