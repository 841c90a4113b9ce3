"""Runs a load generator against a subject and reads the CPU counters at its start and end."""

import json
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import cpu
from benchmarks.harness.cpu import CpuUse, Pids
from benchmarks.harness.processes import ProcessFailedError, log_tail, started
from benchmarks.harness.subjects import Subject
from benchmarks.load.command_line import REGISTRATION_TOKEN_VARIABLE, TOKEN_VARIABLE


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator reported, and the CPU that was used from its first event to its last."""

    figures: dict[str, float]
    cpu: CpuUse


Watch = Callable[[str], Awaitable[None]]


async def ignore_event(_: str) -> None:
    """Take no notice of an event."""


async def events_of(process: Process) -> AsyncIterator[dict[str, float | str]]:
    """The JSON lines a load generator prints."""
    if process.stdout is None:
        raise ProcessFailedError("standard output is not piped")
    async for line in process.stdout:
        yield json.loads(line)


async def run_load(subject: Subject, module: str, arguments: Sequence[str], watch: Watch = ignore_event) -> Load:
    """Run a module of `benchmarks.load` to its end. CPU is told an operation, and its `done` are the operations.

    `watch` is awaited at each event, by its name, before the next one is read.

    Raises:
        ProcessFailedError: it ended without its last event.
    """
    argv = [sys.executable, "-m", f"benchmarks.load.{module}", "--target", subject.targets, *arguments]
    tokens = {REGISTRATION_TOKEN_VARIABLE: subject.registration_token, TOKEN_VARIABLE: subject.admin_token}
    log = subject.work_dir / "load.log"
    async with started(argv, log, tokens) as process:
        return await measured(process, Pids(subject.pids, subject.postmaster, load=process.pid), log, watch)


async def run_peer(argv: Sequence[str], postmaster: int, log: Path, environment: Mapping[str, str]) -> Load:
    """Run a program of `benchmarks.peers`, server and load in one, to its end; it prints what a load generator prints.

    Raises:
        ProcessFailedError: it ended without its last event.
    """
    async with started(argv, log, environment) as process:
        return await measured(process, Pids((process.pid,), postmaster, load=None), log, ignore_event)


async def measured(process: Process, pids: Pids, log: Path, watch: Watch) -> Load:
    """Read the events of a process to the last one, and the CPU counters with them.

    Raises:
        ProcessFailedError: it ended without its last event.
    """
    begin = cpu.read(pids)
    async for event in events_of(process):
        name = str(event.pop("event"))
        now = cpu.read(pids)
        await watch(name)
        if name == "started":
            begin = now
        elif name == "finished":
            figures = {figure: float(value) for figure, value in event.items()}
            return Load(figures, cpu.use_between(begin, now, int(figures["done"])))
    raise ProcessFailedError(f"a load ended early\n{log_tail(log)}")
