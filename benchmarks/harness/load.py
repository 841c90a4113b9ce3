"""Runs a load generator against a subject and reads the CPU counters at its start and end."""

import json
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

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


async def events_of(process: Process) -> AsyncIterator[dict[str, float | str]]:
    """The JSON lines a load generator prints."""
    if process.stdout is None:
        raise ProcessFailedError("standard output is not piped")
    async for line in process.stdout:
        yield json.loads(line)


async def run_load(subject: Subject, module: str, arguments: Sequence[str]) -> Load:
    """Run a module of `benchmarks.load` to its end. CPU is told an operation, and its `done` are the operations.

    Raises:
        ProcessFailedError: it ended without its last event.
    """
    argv = [sys.executable, "-m", f"benchmarks.load.{module}", "--target", subject.target, *arguments]
    tokens = {REGISTRATION_TOKEN_VARIABLE: subject.registration_token, TOKEN_VARIABLE: subject.admin_token}
    log = subject.work_dir / "load.log"
    async with started(argv, log, tokens) as process:
        pids = Pids(server=subject.pid, postmaster=subject.postmaster, load=process.pid)
        begin = cpu.read(pids)
        async for event in events_of(process):
            match event.pop("event"):
                case "started":
                    begin = cpu.read(pids)
                case "finished":
                    end = cpu.read(pids)
                    figures = {name: float(value) for name, value in event.items()}
                    return Load(figures, cpu.use_between(begin, end, int(figures["done"])))
    raise ProcessFailedError(f"the load generator {module} ended early\n{log_tail(log)}")
