"""One process of a step, with everything it starts: a session of its own, stopped as a whole."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

_T = TypeVar("_T")


class CannotStartError(Exception):
    """The program could not be started; `exit_code` is what a shell would have answered (126, 127)."""

    reason: ClassVar[str] = "script"

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(slots=True)
class Launcher:
    """Starts processes and remembers which are its own. `kill_grace` is the seconds between TERM and KILL."""

    kill_grace: float
    running: set[int] = field(default_factory=set)
    _starting: int = 0

    @property
    def is_starting(self) -> bool:
        """Tell whether a process is being started whose id is not in `running` yet."""
        return self._starting > 0

    async def run(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], output: int) -> int:
        """Run a program to its end with standard output and error going to the descriptor `output`.

        Returns the exit code; 128 + N after death by signal N. Whatever is left of its process group is killed. When
        the caller is cancelled the group gets TERM, `kill_grace` seconds, and KILL; cancelled again, KILL at once.

        Raises:
            CannotStartError: when there is no such program, or it may not be executed.
            OSError: when the system is out of something.
        """
        process = await self._start(argv, cwd=cwd, env=env, stdout=output, stderr=output)
        await self._supervise(process, process.wait())
        return exit_code_of(process)

    async def capture(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], output: int) -> tuple[int, str]:
        """Run a program as `run` does and return its exit code and what it wrote to its standard output."""
        process = await self._start(argv, cwd=cwd, env=env, stdout=PIPE, stderr=output)
        text, _ = await self._supervise(process, process.communicate())
        return exit_code_of(process), text.decode("utf-8", "replace").strip()

    async def _start(
        self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdout: int, stderr: int
    ) -> Process:
        # Shielded: cancelled half-way, asyncio would kill the program and leave what it has started meanwhile.
        spawning = asyncio.ensure_future(_spawn(argv, cwd=cwd, env=env, stdout=stdout, stderr=stderr))
        self._starting += 1
        spawning.add_done_callback(self._note_start)
        try:
            return await asyncio.shield(spawning)
        except asyncio.CancelledError:
            process = await spawning
            try:
                await self._stop(process)
            finally:
                await self._bury(process)
            raise

    def _note_start(self, spawning: asyncio.Future[Process]) -> None:
        self._starting -= 1
        if not spawning.cancelled() and spawning.exception() is None:
            self.running.add(spawning.result().pid)

    async def _supervise(self, process: Process, end: Awaitable[_T]) -> _T:
        """Wait for the end of a process, and see that nothing of its group outlives it."""
        try:
            return await end
        except asyncio.CancelledError:
            await self._stop(process)
            raise
        finally:
            await self._bury(process)

    async def _stop(self, process: Process) -> None:
        """Ask the group to end and give its leader time to do so."""
        signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.kill_grace):
                await process.wait()

    async def _bury(self, process: Process) -> None:
        """End whatever is left of the group."""
        signal_group(process.pid, signal.SIGKILL)
        await process.wait()
        self.running.discard(process.pid)


def exit_code_of(process: Process) -> int:
    """Return the exit code the way a shell tells it."""
    code = process.returncode or 0
    return 128 - code if code < 0 else code


def signal_group(leader: int, number: signal.Signals) -> None:
    """Send a signal to a process group; one that has ended already is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


async def _spawn(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdout: int, stderr: int) -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv, cwd=cwd, env=env, stdin=DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
        )
    except FileNotFoundError as error:
        # The error's file name is the program or, when that is missing, the working directory.
        raise CannotStartError(f"no such program or directory: {error.filename}", 127) from error
    except (PermissionError, NotADirectoryError) as error:
        raise CannotStartError(f"cannot execute {argv[0]}: {error.strerror}", 126) from error
