"""Child processes: started with a log, told to stop, never left behind."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

STOP_SECONDS = 30.0
READY_SECONDS = 60.0
LINE_LIMIT = 1 << 20


class ProcessFailedError(Exception):
    """A child process did not do what it was started for; the text holds the end of its log."""


def log_tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])


@contextlib.asynccontextmanager
async def started(
    argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """Run a program within the context; its standard error goes to `log`. SIGTERM ends it, SIGKILL if that does not."""
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=PIPE, stderr=errors, env={**os.environ, **(environment or {})}, limit=LINE_LIMIT
        )
    try:
        yield process
    finally:
        await stop(process)


async def stop(process: Process) -> None:
    """End a process and wait until it is gone."""
    send(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.communicate()
    except TimeoutError:
        send(process, signal.SIGKILL)
        await process.wait()


def send(process: Process, number: signal.Signals) -> None:
    """Signal a process that may have ended already.

    Not by its own method, which collects a process that has just ended before the event loop can learn its code.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


async def read_ready(process: Process, log: Path) -> dict[str, str]:
    """Wait for the line `ready name=value ...` and answer its values.

    Raises:
        ProcessFailedError: the program ended, or was not ready within a minute.
    """
    if process.stdout is None:
        raise ProcessFailedError("standard output is not piped")
    try:
        async with asyncio.timeout(READY_SECONDS):
            async for line in process.stdout:
                words = line.decode().split()
                if words[:1] == ["ready"]:
                    return dict(word.split("=", 1) for word in words[1:])
    except TimeoutError:
        raise ProcessFailedError(f"not ready within {READY_SECONDS:.0f} s\n{log_tail(log)}") from None
    raise ProcessFailedError(f"ended before it was ready\n{log_tail(log)}")


async def output_of(argv: Sequence[str], log: Path) -> str:
    """Run a program to its end and answer what it printed.

    Raises:
        ProcessFailedError: it ended with an error.
    """
    async with started(argv, log) as process:
        output, _ = await process.communicate()
    if process.returncode:
        raise ProcessFailedError(f"{Path(argv[0]).name} ended with {process.returncode}\n{log_tail(log)}")
    return output.decode().strip()
