"""The server as a process, and what a test needs to talk to it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import aio

from arcentra_api.admin.v1 import admin_pb2_grpc
from arcentra_api.agent.v1 import agent_pb2, agent_pb2_grpc
from arcentra_api.gateway.v1 import gateway_pb2_grpc
from arcentra_api.pipeline.v1 import pipeline_pb2_grpc
from arcentra_api.steprun.v1 import steprun_pb2_grpc
from arcentra_api.stream.v1 import stream_pb2_grpc

PROGRAMS = Path(sys.executable).parent
_READY = re.compile(rb"ready grpc=(\S+) http=(\S+)")


class ServerFailed(Exception):
    """The server did not come up; the text holds what it said."""


def clean_env(**extra: str) -> dict[str, str]:
    """Return the environment for programs under test: none of the settings of whoever runs the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ARCENTRA_")}
    # Programs start as they do for a user: from their cached byte code.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**kept, **extra}


@dataclass
class Server:
    """A running server. `token` is the administrator's."""

    process: asyncio.subprocess.Process
    data_dir: Path
    log: Path
    grpc: str
    http: str
    database_url: str = ""

    @property
    def token(self) -> str:
        return (self.data_dir / "admin.token").read_text().strip()

    async def kill(self) -> None:
        """End it as a power cut would."""
        os.kill(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> int:
        """End it as an operator would; return its exit code."""
        if self.process.returncode is None:
            os.kill(self.process.pid, signal.SIGTERM)
        return await self.process.wait()

    async def command(self, *arguments: str) -> str:
        """Run `arcentra-server` beside it, on its database, and return what it prints."""
        database = ("--database-url", self.database_url) if self.database_url else ()
        return await run_program("arcentra-server", *arguments, "--data-dir", str(self.data_dir), *database)


async def run_program(name: str, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Run one of our programs to its end; return its stdout without the last line break."""
    process = await asyncio.create_subprocess_exec(
        str(PROGRAMS / name),
        *arguments,
        env=env or clean_env(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    if process.returncode:
        raise ServerFailed(f"{name} {arguments} ended with {process.returncode}: {stderr.decode()}")
    return stdout.decode().rstrip("\n")


async def start_server(
    data_dir: Path,
    *arguments: str,
    command: str = "serve",
    grpc: str = "127.0.0.1:0",
    env: dict[str, str] | None = None,
    source: Path | None = None,
) -> Server:
    """Start `arcentra-server serve` (or `dev`) and return once it is ready.

    `source`: the folder of packages to run instead of those that are installed, a copy of `src`.

    Raises:
        ServerFailed: it ended before it was ready.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir.parent / f"{data_dir.name}.log"
    env = env or clean_env()
    if source is not None:
        env = {**env, "PYTHONPATH": str(source)}
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            str(PROGRAMS / "arcentra-server"),
            command,
            "--data-dir",
            str(data_dir),
            "--grpc-listen",
            grpc,
            "--http-listen",
            "127.0.0.1:0",
            *arguments,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdout is not None
    line = await process.stdout.readline()
    found = _READY.search(line)
    if found is None:
        await process.wait()
        raise ServerFailed(f"the server said {line!r} and ended with {process.returncode}:\n{log.read_text()[-4000:]}")
    url = arguments[arguments.index("--database-url") + 1] if "--database-url" in arguments else ""
    return Server(process, data_dir, log, found[1].decode(), found[2].decode(), url)


@asynccontextmanager
async def running_server(data_dir: Path, *arguments: str) -> AsyncIterator[Server]:
    """Run a server for the length of the block."""
    server = await start_server(data_dir, *arguments)
    try:
        yield server
    finally:
        await server.stop()


@dataclass
class Client:
    """Stubs over one channel, and the credential for their calls."""

    channel: aio.Channel
    token: str

    def __post_init__(self) -> None:
        self.admin: Any = admin_pb2_grpc.AdminServiceStub(self.channel)
        self.agent: Any = agent_pb2_grpc.AgentServiceStub(self.channel)
        self.gateway: Any = gateway_pb2_grpc.GatewayServiceStub(self.channel)
        self.pipeline: Any = pipeline_pb2_grpc.PipelineServiceStub(self.channel)
        self.step_run: Any = steprun_pb2_grpc.StepRunServiceStub(self.channel)
        self.stream: Any = stream_pb2_grpc.StreamServiceStub(self.channel)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def as_caller(self, token: str) -> Client:
        """Return the same channel with another credential."""
        return Client(self.channel, token)

    async def join(self, registration_token: str, name: str = "agent", **facts: Any) -> tuple[str, Client]:
        """Register an agent; return its id and its client."""
        request = agent_pb2.RegisterRequest(registration_token=registration_token, agent_name=name, **facts)
        answer = await self.agent.Register(request)
        return answer.agent_id, self.as_caller(answer.auth_token)


@asynccontextmanager
async def client_of(server: Server, token: str | None = None) -> AsyncIterator[Client]:
    """Connect to a server, as the administrator unless another token is given; the connection is shared with nobody."""
    async with aio.insecure_channel(server.grpc, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        yield Client(channel, server.token if token is None else token)
