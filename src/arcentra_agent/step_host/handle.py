"""The agent's hold on a step host: commands go in, and its end is noticed."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from arcentra_agent.step_host import commands
from arcentra_agent.step_host.commands import Command
from arcentra_agent.step_host.files import StepFiles


class HostHandle:
    """A step host, started by this process of the agent or by one before it."""

    def __init__(self, files: StepFiles) -> None:
        """Take hold of the host of a step, if it lives."""
        self._files = files
        self._ended = asyncio.Event()
        self._alive = _open_pipe(files.alive, os.O_RDONLY)
        self._control = _open_pipe(files.control, os.O_WRONLY)
        if self._alive < 0 or self._has_ended():
            self._end()
        else:
            asyncio.get_running_loop().add_reader(self._alive, self._on_end)

    async def ended(self) -> None:
        """Wait for the end of the host."""
        await self._ended.wait()

    def tell(self, command: Command) -> None:
        """Send a command; a host that has ended needs none, one that reads none will be killed by its watchdog."""
        if self._control >= 0:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._control, commands.encode(command))

    def kill(self) -> None:
        """Kill the host itself, which leaves its step running."""
        if not self._ended.is_set() and not self._has_ended() and (pid := self._files.read_pid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def release(self) -> None:
        """Let go of the host and leave it as it is."""
        if self._alive >= 0:
            asyncio.get_running_loop().remove_reader(self._alive)
        for descriptor in (self._alive, self._control):
            if descriptor >= 0:
                os.close(descriptor)
        self._alive = self._control = -1

    def _on_end(self) -> None:
        if self._has_ended():
            self._end()

    def _has_ended(self) -> bool:
        """Tell whether nobody holds the other end, to which nothing is ever written."""
        try:
            return not os.read(self._alive, 1)
        except BlockingIOError:
            return False

    def _end(self) -> None:
        self.release()
        self._ended.set()


def _open_pipe(path: Path, flags: int) -> int:
    """Open a named pipe, or return -1 where there is none, or nobody at its other end."""
    try:
        return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
