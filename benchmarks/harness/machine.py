"""Facts about the machine and the software, none of which says whose machine it is."""

import os
import platform
import resource
from importlib.metadata import version
from pathlib import Path

import asyncpg


def filesystem_of(path: Path) -> str:
    """Type of the filesystem that holds a path, from the longest mount point above it."""
    best = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, mount_point, kind, *_ = line.split()
        if path.resolve().is_relative_to(mount_point) and len(mount_point) >= len(best[0]):
            best = (mount_point, kind)
    return best[1]


def machine_facts(work_dir: Path) -> dict[str, str | int | float]:
    """Processor, cores this process may use, memory, kernel and the filesystem the databases are on."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "filesystem": filesystem_of(work_dir),
    }


def allow_open_files() -> None:
    """Let this process and those it starts have as many files and connections open as the machine allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def software_versions() -> dict[str, str]:
    """Versions that move the figures."""
    packages = ("arcentra-server", "grpcio", "protobuf", "asyncpg")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


async def postgres_version(dsn: str) -> str:
    """Version of the PostgreSQL behind a DSN."""
    connection = await asyncpg.connect(dsn)
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()
