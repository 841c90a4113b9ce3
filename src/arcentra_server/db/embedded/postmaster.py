"""What PostgreSQL says of itself in `postmaster.pid`, and what an earlier start may have left running."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from arcentra_server.db.embedded.errors import PreviousServerError

_PID_LINE, _SOCKET_DIR_LINE, _STATUS_LINE = 0, 4, 7
_POLL_SECONDS = 0.05
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class PidFile:
    """The lines of `postmaster.pid` that matter here; written piecemeal, so all but the first may be missing."""

    pid: int
    socket_dir: str | None
    ready: bool


def read_pid_file(cluster: Path) -> PidFile | None:
    """What the running, or the last, server of `cluster` wrote; None if nothing readable is there."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        pid = abs(int(lines[_PID_LINE]))  # a single-user server writes its id negated
    except (OSError, ValueError, IndexError):
        return None
    socket_dir = lines[_SOCKET_DIR_LINE] if len(lines) > _SOCKET_DIR_LINE else None
    ready = len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == "ready"
    return PidFile(pid, socket_dir, ready)


def serves(pid: int, cluster: Path, *, if_hidden: bool = True) -> bool:
    """Whether `pid` is a live PostgreSQL process of `cluster`. A recycled id and a zombie are not.

    `if_hidden` is the answer for a PostgreSQL process whose directory we may not see.
    """
    if sys.platform != "linux":
        return _exists(pid)
    process = Path("/proc") / str(pid)
    try:
        name, _, rest = (process / "stat").read_text().partition("(")[2].rpartition(")")
        if name != "postgres" or rest.split()[0] in {"Z", "X"}:
            return False
        return (process / "cwd").samefile(cluster)
    except PermissionError:
        return if_hidden
    except OSError:
        return False


async def end_leftovers(cluster: Path, *, within: float) -> None:
    """Wait until nothing of an earlier start runs on `cluster`, then remove what it left. The lock must be held.

    A server whose parent died is shutting down by itself and is waited for. Workers whose postmaster was killed hold
    its shared memory, perhaps for long, and nobody ends them: they are told to quit, as the postmaster would have done.

    Args:
        cluster: the directory of the cluster; it need not exist.
        within: seconds to wait.

    Raises:
        PreviousServerError: something still runs after that.
    """
    told = False
    try:
        async with asyncio.timeout(within):
            while pids := _processes(cluster):
                if not told:
                    _log.warning("postgres_leftover", cluster=str(cluster), pids=pids)
                    told = True
                _quit_orphans(cluster, pids)
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise PreviousServerError(cluster, _processes(cluster), within) from None
    # PostgreSQL believes this file if any process has that id now, which after a reboot or in a container is common.
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def _processes(cluster: Path) -> list[int]:
    if not cluster.exists():
        return []
    noted = read_pid_file(cluster)
    found = {noted.pid} if noted is not None and serves(noted.pid, cluster) else set[int]()
    if sys.platform == "linux":
        candidates = (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())  # noqa: PTH208 - names suffice
        found.update(pid for pid in candidates if serves(pid, cluster, if_hidden=False))
    return sorted(found)


def _quit_orphans(cluster: Path, pids: list[int]) -> None:
    postmaster = read_pid_file(cluster)
    if postmaster is not None and postmaster.pid in pids:
        return
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGQUIT)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
