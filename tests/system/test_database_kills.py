"""The embedded PostgreSQL is killed: the server brings it back, and what it acknowledged is there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc import aio

from tests.agent.processes import Gate
from tests.support.consistency import check_consistent
from tests.support.processes import Sandbox, database_of, kill_database, postmaster, until
from tests.support.server import Client, Server, client_of
from tests.system.verbs import SUCCESS, apply, document, end_of, log_of, start, step_of, trigger

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
async def server(shared: Sandbox) -> Server:
    server = await shared.serve()
    await shared.agent(server, capacity=4)
    return server


async def test_a_database_that_is_killed_in_the_middle_of_work_comes_back(server: Server, tmp_path: Path) -> None:
    ran, gate = tmp_path / "ran", Gate(tmp_path / "gate")
    async with client_of(server) as client:
        small = await apply(client, document("small", f"echo $ARCENTRA_STEP_RUN_ID >> {ran}"))
        long = await start(client, document("long", f"seq 1 1000\nread line < {gate.path}\nseq 1001 2000"))
        await log_of(client, step_of(long).step_run_id, until=b"\n1000\n")
        async with _readiness(server) as seen, _triggers(client, small) as acknowledged:
            await until(lambda: len(acknowledged) >= 10)
            kill_database(server.data_dir)
            before = len(acknowledged)
            await until(lambda: 503 in seen)
            await gate.open()
            await until(lambda: seen[-1] == 200 and len(acknowledged) >= before + 10)
        for run_id in acknowledged:
            assert (await end_of(client, run_id)).status == SUCCESS
        end = await end_of(client, long.run_id)
        assert end.status == SUCCESS
        assert await log_of(client, step_of(end).step_run_id) == b"".join(b"%d\n" % n for n in range(1, 2001))
    await _all_fits(server, ran, acknowledged)
    assert server.process.returncode is None


async def test_a_database_that_is_killed_while_nothing_runs_comes_back(server: Server) -> None:
    async with _readiness(server) as seen, client_of(server) as client:
        await until(lambda: seen)
        killed = kill_database(server.data_dir)
        await until(lambda: postmaster(server.data_dir) not in {killed, None})
        before = len(seen)
        await until(lambda: 200 in seen[before:])
        run = await start(client, document("after", "echo there"))
        assert (await end_of(client, run.run_id)).status == SUCCESS
    assert server.process.returncode is None


async def _all_fits(server: Server, ran: Path, acknowledged: list[str]) -> None:
    """Every acknowledged step ran once; one whose answer was lost may have been kept, and then ran once too."""
    async with database_of(server) as database:

        async def all_ended() -> bool:
            async with database.transaction() as tx:
                return not await tx.fetchval("SELECT count(*) FROM pipeline_runs WHERE finished_at IS NULL")

        await until(all_ended)
        async with database.transaction(snapshot=True) as tx:
            await check_consistent(tx)
            rows = await tx.fetch("SELECT id, run_id::text FROM step_runs WHERE status = 'SUCCESS'")
    steps = Counter(ran.read_text().split())
    assert set(steps.values()) == {1}
    assert set(acknowledged) <= {row["run_id"] for row in rows if str(row["id"]) in steps}


@asynccontextmanager
async def _triggers(client: Client, pipeline_id: str) -> AsyncIterator[list[str]]:
    """Start runs without pause; yields those that were acknowledged. Only UNAVAILABLE is a good reason for a refusal."""
    acknowledged: list[str] = []

    async def keep_on() -> None:
        while True:
            try:
                acknowledged.append(await trigger(client, pipeline_id))
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(keep_on())
        yield acknowledged
        task.cancel()


@asynccontextmanager
async def _readiness(server: Server) -> AsyncIterator[list[int]]:
    """Ask for readiness again and again; yields the HTTP statuses."""
    seen: list[int] = []

    async def keep_on() -> None:
        while True:
            seen.append(await _ready(server.http))
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(keep_on())
        yield seen
        task.cancel()


async def _ready(address: str) -> int:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: arcentra\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    return int(answer.split()[1])
