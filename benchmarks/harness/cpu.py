"""CPU time of processes and of the machine, and memory of processes, from /proc."""

import os
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat: CPU seconds of the process and of the children it has waited for."""

    parent: int
    seconds: float


def read_process(pid: int) -> Process | None:
    """The process of that id, or None once it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name in front may hold spaces and brackets
    return Process(parent=int(fields[1]), seconds=sum(int(ticks) for ticks in fields[11:15]) / TICKS_A_SECOND)


def read_processes() -> dict[int, Process]:
    """All processes of the machine by id."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return {pid: process for pid in pids if (process := read_process(pid))}


def tree_seconds(processes: dict[int, Process], root: int) -> float:
    """CPU seconds of a process and all its descendants, those that have ended included."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for pid, process in processes.items():
        children[process.parent].append(pid)
    total, todo = 0.0, [root]
    while todo:
        pid = todo.pop()
        if pid in processes:
            total += processes[pid].seconds
            todo += children[pid]
    return total


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM.

    Raises:
        FileNotFoundError: it is gone.
    """
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Pids:
    """The processes a measurement tells apart. `postmaster` may be a child of one of `servers` or not.

    `load` None: the program under measurement makes its own load.
    """

    servers: tuple[int, ...]
    postmaster: int
    load: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds used until now, by whom; `total` counts the idle ones too."""

    server: float
    postgres: float
    load: float
    harness: float
    busy: float
    steal: float
    total: float

    @property
    def own(self) -> float:
        """CPU seconds of everything that belongs to the measurement."""
        return self.server + self.postgres + self.load + self.harness


def read(pids: Pids) -> Reading:
    """Read all counters."""
    processes = read_processes()
    postgres = tree_seconds(processes, pids.postmaster)
    server = sum(tree_seconds(processes, pid) for pid in pids.servers)
    if any(is_below(processes, pids.postmaster, pid) for pid in pids.servers):
        server -= postgres
    with Path("/proc/stat").open(encoding="ascii") as lines:
        user, nice, system, idle, iowait, irq, softirq, steal = (
            int(ticks) / TICKS_A_SECOND for ticks in lines.readline().split()[1:9]
        )
    busy = user + nice + system + irq + softirq
    return Reading(
        server=server,
        postgres=postgres,
        load=tree_seconds(processes, pids.load) if pids.load is not None else 0.0,
        harness=processes[os.getpid()].seconds,
        busy=busy,
        steal=steal,
        total=busy + idle + iowait + steal,
    )


def is_below(processes: dict[int, Process], pid: int, ancestor: int) -> bool:
    """Whether a process descends from another."""
    while pid in processes and pid != ancestor:
        pid = processes[pid].parent
    return pid == ancestor


@dataclass(frozen=True, slots=True)
class CpuUse:
    """CPU of one run: microseconds an operation by part, and percent of the whole machine for the rest."""

    server_us: float
    postgres_us: float
    load_us: float
    foreign_percent: float
    steal_percent: float

    def members(self) -> dict[str, float]:
        """The figures as a JSON object's members."""
        return {name: round(value, 1) for name, value in asdict(self).items()}


def use_between(begin: Reading, end: Reading, operations: int) -> CpuUse:
    """What was used from one reading to another, in which `operations` operations were done."""
    operations = max(operations, 1)
    total = max(end.total - begin.total, 1 / TICKS_A_SECOND)
    return CpuUse(
        server_us=(end.server - begin.server) * 1e6 / operations,
        postgres_us=(end.postgres - begin.postgres) * 1e6 / operations,
        load_us=(end.load - begin.load) * 1e6 / operations,
        foreign_percent=max((end.busy - begin.busy) - (end.own - begin.own), 0.0) * 100 / total,
        steal_percent=(end.steal - begin.steal) * 100 / total,
    )
