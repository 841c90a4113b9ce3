"""The agent that `arcentra-server dev` runs beside the server: a process of its own, ended with the server."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

_DRAIN_SECONDS = 20.0
_log = structlog.get_logger()


class LocalAgentFailed(Exception):
    """The local agent ended by itself."""


def program(name: str) -> str:
    """Return the path of a program that is installed beside this one."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else (shutil.which(name) or name)


async def run_local_agent(
    server: str, work_dir: Path, capacity: int | None, make_token: Callable[[], Awaitable[str]]
) -> None:
    """Run an agent until cancelled, then let it finish.

    Args:
        server: Address of the server, HOST:PORT.
        work_dir: Where the agent keeps its credential, workspaces and logs.
        capacity: Step runs at a time; None for the agent's own default.
        make_token: Makes a registration token; called when the agent has no credential yet.

    Raises:
        LocalAgentFailed: the agent ended by itself.
    """
    env = {**os.environ, "ARCENTRA_AGENT_SERVER": server, "ARCENTRA_AGENT_WORK_DIR": str(work_dir)}
    if not (work_dir / "agent.json").exists():
        env["ARCENTRA_AGENT_REGISTRATION_TOKEN"] = await make_token()
    arguments = [program("arcentra-agent"), "run", "--name", "local", "--drain-timeout", str(_DRAIN_SECONDS / 2)]
    if capacity is not None:
        arguments += ["--capacity", str(capacity)]
    if wrapper := shutil.which("setpriv"):
        # If the server is killed, its agent goes too: `dev` leaves nothing behind.
        arguments = [wrapper, "--pdeathsig", "TERM", "--", *arguments]
    process = await asyncio.create_subprocess_exec(
        *arguments, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
    )
    _log.info("local_agent_started", pid=process.pid)
    try:
        code = await process.wait()
        raise LocalAgentFailed(f"the local agent ended with code {code}: see its messages above")
    finally:
        if process.returncode is None:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
