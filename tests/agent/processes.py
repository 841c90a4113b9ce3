"""Real agents and real gates: what the tests of the agent start, and how they and a step wait for each other."""

import asyncio
import contextlib
import os
import select
import signal
import sys
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

from arcentra_agent import orphans
from arcentra_api.agent.v1 import agent_pb2
from tests.support.fake_control_plane import REGISTRATION_TOKEN, FakeControlPlane, FakeStep

_numbers = count(1)


class Gate:
    """A named pipe: who reads waits until somebody writes, and the other way round."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    async def open(self) -> None:
        """Let the step that reads the gate go on."""
        await asyncio.to_thread(self.path.write_text, "go\n")

    async def passed(self) -> str:
        """Wait for the step to write to the gate; return what it wrote."""
        return (await asyncio.to_thread(self.path.read_text)).strip()


class AgentProcess:
    """`arcentra-agent run` as a process of its own."""

    def __init__(self, plane: FakeControlPlane, work_dir: Path, *options: str, token: str = REGISTRATION_TOKEN) -> None:
        self._plane = plane
        self.work_dir = work_dir
        self._options = ("--server", plane.address, "--work-dir", str(work_dir), "--capacity", "4", *options)
        self._token = token
        self._errors = work_dir.with_name(f"{work_dir.name}-{next(_numbers)}.log")
        self.process: asyncio.subprocess.Process | None = None

    @property
    def errors(self) -> str:
        """What the agent has logged so far."""
        return self._errors.read_text()

    async def start(self) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ARCENTRA_")}
        if self._token:
            environ["ARCENTRA_AGENT_REGISTRATION_TOKEN"] = self._token
        with self._errors.open("ab") as errors:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "arcentra_agent", "run", *self._options),
                env=environ,
                stdin=asyncio.subprocess.DEVNULL,
                stderr=errors,
            )

    async def start_again(self) -> None:
        """Start the next process on the same work directory; the first heartbeat that is kept is its first."""
        self._plane.heartbeats.clear()
        await self.start()
        await connected(self._plane, self)

    async def kill(self) -> None:
        """Kill the agent alone; what its steps run goes on."""
        self.signal(signal.SIGKILL)
        await self.ended()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def ended(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what it logged."""
        assert self.process is not None
        return await self.process.wait(), self.errors

    async def end(self) -> None:
        """End it whatever it does."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        for pid in host_pids(self.work_dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        orphans.kill_stale(self.work_dir / "workspaces")


def host_pids(work_dir: Path) -> list[int]:
    """Return the processes that the steps of an agent run under; those of steps that are not forgotten."""
    return [int(file.read_text()) for file in work_dir.glob("steps/*/pid")]


@contextlib.asynccontextmanager
async def running_agent(plane: FakeControlPlane, work_dir: Path, *options: str) -> AsyncIterator[AgentProcess]:
    """An agent that is connected, and gone afterwards, with its steps."""
    agent = AgentProcess(plane, work_dir, *options)
    await agent.start()
    try:
        await connected(plane, agent)
        yield agent
    finally:
        await agent.end()


async def connected(plane: FakeControlPlane, agent: AgentProcess) -> None:
    """Wait for the agent's stream, or fail with what it said when it ends instead."""
    async with asyncio.TaskGroup() as tasks:
        ended = tasks.create_task(agent.ended())
        there = tasks.create_task(plane.until(lambda: plane.is_connected and plane.heartbeats))
        await asyncio.wait((ended, there), return_when=asyncio.FIRST_COMPLETED)
        assert not ended.done(), agent.errors
        ended.cancel()


async def gone(pid: int) -> None:
    """Wait for the end of a process that need not be a child of this one."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            await asyncio.to_thread(select.select, [descriptor], [], [])
        finally:
            os.close(descriptor)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that ended and was not reaped does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def script(*lines: str) -> dict[str, str]:
    """Return the arguments of a step that runs these lines."""
    return {"script": "\n".join(lines)}


def end_of(step: FakeStep) -> agent_pb2.TaskStatus:
    """Return how a step ended."""
    assert step.end is not None
    return step.end
