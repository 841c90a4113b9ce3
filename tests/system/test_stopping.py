"""The server is stopped, or cannot start: it says why, it fails no run, and it leaves nothing running."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agent.processes import Gate, is_alive
from tests.support.processes import Sandbox, postmaster, running_below, stopped_database, until
from tests.support.server import Server, client_of
from tests.system.verbs import SUCCESS, document, end_of, log_of, start, step_of

pytestmark = pytest.mark.slow

ANY = "127.0.0.1:0"


async def test_no_run_fails_when_the_server_is_stopped_and_started_again(sandbox: Sandbox, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    server = await sandbox.serve()
    await sandbox.agent(server)
    async with client_of(server) as client:
        run = await start(client, document("waiting", f"echo waits\nread line < {gate.path}", "echo after"))
        await log_of(client, run.job_runs[0].step_runs[0].step_run_id, until=b"waits")
        assert await server.stop() == 0
    assert not running_below(sandbox.data_dir)
    server = await sandbox.serve_again(server)
    await gate.open()
    async with client_of(server) as client:
        assert (await end_of(client, run.run_id)).status == SUCCESS


async def test_only_one_server_a_data_directory(sandbox: Sandbox) -> None:
    server = await sandbox.serve()
    second = await sandbox.run("arcentra-server", "serve", *_listening(sandbox, ANY, ANY))
    assert second.code == 1
    assert f"the data directory {sandbox.data_dir} is in use by process {server.process.pid}" in second.err
    assert second.out == ""
    pid = postmaster(sandbox.data_dir)
    assert pid is not None
    assert is_alive(pid)


@pytest.mark.parametrize("port", ["grpc", "http"])
async def test_a_taken_port_is_named(sandbox: Sandbox, port: str) -> None:
    with _taken_port() as taken:
        addresses = (taken, ANY) if port == "grpc" else (ANY, taken)
        outcome = await sandbox.run("arcentra-server", "serve", *_listening(sandbox, *addresses))
    assert outcome.code == 1
    assert taken in outcome.err
    assert "taken" in outcome.err or "in use" in outcome.err
    assert "Traceback" not in outcome.err
    assert "ready" not in outcome.out
    assert not running_below(sandbox.data_dir)


async def test_dev_leaves_nothing_behind_when_it_is_stopped(sandbox: Sandbox, tmp_path: Path) -> None:
    server, gate = await _working_dev(sandbox, tmp_path)
    os.kill(server.process.pid, signal.SIGTERM)
    await gate.open()
    assert await server.process.wait() == 0
    assert not running_below(sandbox.data_dir)
    async with stopped_database(sandbox.data_dir) as database, database.transaction() as tx:
        assert await tx.fetchval("SELECT status FROM pipeline_runs") == "SUCCESS"


async def test_dev_leaves_nothing_behind_when_it_is_killed(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.settings = {"ARCENTRA_AGENT_KILL_GRACE": "0"}
    server, _ = await _working_dev(sandbox, tmp_path)
    await server.kill()
    await until(lambda: not running_below(sandbox.data_dir))


async def _working_dev(sandbox: Sandbox, tmp_path: Path) -> tuple[Server, Gate]:
    """Start `dev` and a step that waits for a gate."""
    gate = Gate(tmp_path / "gate")
    server = await sandbox.serve(command="dev")
    async with client_of(server) as client:
        run = await start(client, document("waiting", f"echo waits\nread line < {gate.path}"))
        await log_of(client, step_of(run).step_run_id, until=b"waits")
    return server, gate


def _listening(sandbox: Sandbox, grpc: str, http: str) -> tuple[str, ...]:
    return "--data-dir", str(sandbox.data_dir), "--grpc-listen", grpc, "--http-listen", http


@contextmanager
def _taken_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
