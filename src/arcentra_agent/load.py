"""How busy the host is, and how much of that the steps are: measured by a thread, told with each heartbeat."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import structlog

# Seconds between the beginning of a process by the kernel's clock and by that of a file system, at most.
_CLOCKS_DIFFER = 2.0
_log = structlog.get_logger("arcentra_agent")

# A process number and its beginning: numbers are given again.
_Key = tuple[int, float]


class Load:
    """The newest measurement. A heartbeat takes what there is and never waits: a hung disk must not delay it."""

    def __init__(self, work_dir: Path, steps: Path) -> None:
        self._probe = _Probe(work_dir, steps)
        self._wanted = asyncio.Event()
        self._newest: Mapping[str, str] = {}

    def take(self) -> Mapping[str, str]:
        """Return the newest measurement, name to number, and have the next one made."""
        self._wanted.set()
        return self._newest

    async def run(self) -> None:
        """Measure whenever the last measurement was taken, until cancelled."""
        while True:
            try:
                self._newest = await asyncio.to_thread(self._probe.measure)
            except (OSError, RuntimeError, psutil.Error) as error:
                _log.debug("load_not_measured", error=str(error))
            await self._wanted.wait()
            self._wanted.clear()


class _Probe:
    """Measures for the time since it last did. All numbers are percent of the whole host."""

    def __init__(self, work_dir: Path, steps: Path) -> None:
        self._work_dir = work_dir
        self._steps = steps
        self._cores = os.cpu_count() or 1
        self._measured_at = time.monotonic()
        self._seconds: dict[_Key, float] = {}
        self._host_seconds = _host_seconds()

    def measure(self) -> Mapping[str, str]:
        share, resident = self._of_steps()
        memory = psutil.virtual_memory()
        numbers = {
            "cpu_usage": self._of_host(),
            "memory_usage": memory.percent,
            "disk_usage": psutil.disk_usage(str(self._work_dir)).percent,
            "steps_cpu_usage": share,
            "steps_memory_usage": 100 * resident / memory.total,
        }
        return {name: f"{min(max(number, 0.0), 100.0):.1f}" for name, number in numbers.items()}

    def _of_host(self) -> float:
        """Return the processor time of everything in percent; psutil's own measure is one of each thread by itself."""
        now, before = _host_seconds(), self._host_seconds
        self._host_seconds = now
        elapsed = now[1] - before[1]
        return 100 * (now[0] - before[0]) / elapsed if elapsed > 0 else 0.0

    def _of_steps(self) -> tuple[float, int]:
        """Return the processor time of all steps in percent, and the bytes of memory they hold."""
        now, used, resident = time.monotonic(), 0.0, 0
        seconds: dict[_Key, float] = {}
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                times, key = process.cpu_times(), (process.pid, process.create_time())
                total = times.user + times.system
                # What a process of the last measurement used before that was counted then.
                used += max(0.0, total - self._seconds.get(key, 0.0))
                seconds[key] = total
                resident += process.memory_info().rss
        elapsed = max(now - self._measured_at, 0.001)
        self._measured_at, self._seconds = now, seconds
        return 100 * used / elapsed / self._cores, resident

    def _processes(self) -> Iterator[psutil.Process]:
        """Yield the hosts of all steps, those of an agent before included, and everything below them.

        All processes of the host are looked at once, however many steps there are.
        """
        written = self._noted()
        if not written:
            return
        below: dict[int, list[psutil.Process]] = {}
        hosts: list[psutil.Process] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                below.setdefault(process.ppid(), []).append(process)
                # One that began after its number was written down is another that got the same number.
                if process.create_time() <= written.get(process.pid, 0.0) + _CLOCKS_DIFFER:
                    hosts.append(process)
        while hosts:
            process = hosts.pop()
            yield process
            hosts += below.pop(process.pid, [])

    def _noted(self) -> dict[int, float]:
        """Return the process numbers that hosts have written down, and when (Unix seconds)."""
        written: dict[int, float] = {}
        for file in self._steps.glob("*/pid"):
            with contextlib.suppress(OSError, ValueError):
                written[int(file.read_text())] = file.stat().st_mtime
        return written


def _host_seconds() -> tuple[float, float]:
    """Return the seconds that all processors were busy, and the seconds there were."""
    times = psutil.cpu_times()
    # The time of guests is in that of users already.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total
