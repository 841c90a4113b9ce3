"""A whole installation as processes: server, agents and commands below one directory, of which nothing is left at the end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from inspect import isawaitable
from pathlib import Path
from typing import Any

from arcentra_server.db.embedded import EmbeddedPostgres, running_dsn
from arcentra_server.db.embedded.layout import Layout
from arcentra_server.db.embedded.postmaster import read_pid_file
from arcentra_server.db.engine import Database
from tests.support.server import PROGRAMS, Server, clean_env, start_server

PATIENCE = 60.0
_POLL_SECONDS = 0.02
_MODES = (signal.SIGTERM, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent."""

    process: Process
    work_dir: Path
    log: Path

    async def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Let it do nothing for the length of the block; what is sent to it waits."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


@dataclass
class Sandbox:
    """What one test runs, below `root`. All programs get a home of their own there and none of our settings."""

    root: Path
    settings: dict[str, str] = field(default_factory=dict)
    _agents: list[Process] = field(default_factory=list)
    _others: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def env(self) -> dict[str, str]:
        return clean_env(HOME=str(self.home), **self.settings)

    async def serve(self, *arguments: str, command: str = "serve", grpc: str = "127.0.0.1:0") -> Server:
        """Start the server on the data directory, with a local agent if the command is `dev`."""
        server = await start_server(self.data_dir, *arguments, command=command, grpc=grpc, env=self.env)
        self._others.append(server.process)
        return server

    async def serve_again(self, server: Server) -> Server:
        """Start a server that ended again, at the same address."""
        return await self.serve(grpc=server.grpc)

    async def agent(self, server: Server, name: str = "agent", *, capacity: int = 2, labels: str = "") -> Agent:
        """Start an agent that joins; the same name again is the same agent, with the credential that it keeps."""
        work_dir = self.root / name
        token = "" if (work_dir / "agent.json").exists() else await server.command("registration-token", "create")
        log = self.root / f"{name}.log"
        options = ("--work-dir", str(work_dir), "--name", name, "--capacity", str(capacity), "--labels", labels)
        process = await self.spawn(
            "arcentra-agent",
            *("run", "--server", server.grpc, *options, "--kill-grace", "1", "--drain-timeout", "5"),
            env={"ARCENTRA_AGENT_REGISTRATION_TOKEN": token} if token else {},
            stderr=log,
        )
        self._others.remove(process)
        self._agents.append(process)
        return Agent(process, work_dir, log)

    async def spawn(
        self, program: str, *arguments: str, env: dict[str, str] | None = None, stderr: Path | None = None
    ) -> Process:
        """Start a program, with its output as pipes unless `stderr` is a file to append to."""
        path = PROGRAMS / program
        with (stderr or Path(os.devnull)).open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                path if path.exists() else program,
                *arguments,
                env={**self.env, **(env or {})},
                cwd=self.home,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=file if stderr else PIPE,
            )
        self._others.append(process)
        return process

    async def run(self, program: str, *arguments: str, env: dict[str, str] | None = None) -> Outcome:
        """Run a program to its end."""
        return await self.finish(await self.spawn(program, *arguments, env=env))

    async def finish(self, process: Process) -> Outcome:
        """Wait for the end of a program; return how it ended, with what was not read yet."""
        out, err = await process.communicate()
        self._others.remove(process)
        assert process.returncode is not None
        return Outcome(process.returncode, out.decode(), (err or b"").decode())

    async def close(self) -> None:
        """End everything, the agents first, as long as a server listens; fail if that leaves anything running."""
        for processes in (self._agents, self._others):
            for process in reversed(processes):
                await _end(process)
        try:
            await until(lambda: not running_below(self.root))
        except TimeoutError:
            left = running_below(self.root)
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"still running: {left}") from None


async def _end(process: Process) -> None:
    for number in _MODES:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            with suppress(TimeoutError):
                async with asyncio.timeout(30):
                    await process.communicate()
    assert process.returncode is not None
    process._transport.close()  # type: ignore[attr-defined]  # closes pipes that a leftover child may hold open


@asynccontextmanager
async def sandbox_of(template: Path, root: Path, settings: dict[str, str] | None = None) -> AsyncIterator[Sandbox]:
    """A sandbox with a copy of a data directory that no server has run on yet."""
    sandbox = Sandbox(root, settings or {})
    await asyncio.to_thread(shutil.copytree, template, sandbox.data_dir, symlinks=True)
    try:
        yield sandbox
    finally:
        await sandbox.close()


async def until(probe: Callable[[], Any], *, within: float = PATIENCE) -> Any:
    """Ask again and again, awaiting what can be awaited, until the answer is true, and return it.

    Raises:
        TimeoutError: it was not within so many seconds.
    """
    async with asyncio.timeout(within):
        while True:
            answer = probe()
            if isawaitable(answer):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(_POLL_SECONDS)


async def read_line(process: Process, with_text: str, *, within: float = PATIENCE) -> str:
    """Read the output of a process up to a line with the text, for so many seconds at most; return that line."""
    assert process.stdout is not None
    read = ""
    async with asyncio.timeout(within):
        async for raw in process.stdout:
            line = raw.decode()
            read += line
            if with_text in line:
                return line
    raise AssertionError(f"ended without {with_text!r}: {read}")


def running_below(root: Path) -> dict[int, str]:
    """Return the processes, with their command lines, that name the directory in any way or stand in it."""
    return {pid: words for pid in _processes() if (words := _named_words(pid, root))}


def postmaster(data_dir: Path) -> int | None:
    """Return the process id of the embedded PostgreSQL; None while there is none."""
    noted = read_pid_file(Layout.of(data_dir).cluster)
    return None if noted is None else noted.pid


def kill_database(data_dir: Path) -> int:
    """Kill the embedded PostgreSQL; return the process id it had."""
    pid = postmaster(data_dir)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


@asynccontextmanager
async def stopped_database(data_dir: Path) -> AsyncIterator[Database]:
    """Run the database of a server that has stopped."""
    async with EmbeddedPostgres(data_dir) as postgres, Database(postgres.dsn(), pool_size=4) as database:
        yield database


@asynccontextmanager
async def database_of(server: Server) -> AsyncIterator[Database]:
    """Connect to the embedded database of a running server."""
    dsn = running_dsn(server.data_dir)
    assert dsn is not None
    async with Database(dsn, pool_size=2) as database:
        yield database


def _processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal() and entry.name != _OWN)


def _named_words(pid: int, root: Path) -> str:
    """Return the command line if the process belongs to `root`, else nothing; also for one that has ended."""
    proc, mark = Path("/proc") / str(pid), f"{root}/".encode()
    try:
        words = (proc / "cmdline").read_bytes()
        facts = words + b"\0" + (proc / "environ").read_bytes() + b"\0" + os.fsencode((proc / "cwd").readlink()) + b"/"
    except OSError:
        return ""
    return words.replace(b"\0", b" ").decode(errors="replace") if mark in facts else ""


_OWN = str(os.getpid())
