"""Processes that left their step: children that outlived their parents, and what a killed step host left behind.

A step host is a child subreaper where the kernel has that (Linux): a process that escapes its process group by `setsid`
becomes a child of the host when its parent ends. A host has one step, so all its children are the step's, whatever they
have in their environment. When the host itself was killed, what is left is found among all processes of the machine, by
the step's name in its environment; a process that has thrown that away is not found.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import structlog

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_PAUSE = 0.01
# What does not end within so many passes is stuck in the kernel, and is killed when it comes out of it.
_PASSES, _QUIET_PASSES = 200, 2
_PROC = Path("/proc")
_log = structlog.get_logger("arcentra_agent")


class Children(NamedTuple):
    """How many children there were: those that end, and those of another user that this process may not end."""

    left: int
    spared: int


def become_subreaper() -> None:
    """Adopt orphans from now on; without kernel support nothing changes."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (OSError, AttributeError):
        _log.debug("subreaper_unavailable")


def children_named(program: str) -> int:
    """Return how many children of this process run a program of this name."""
    return sum(_name(pid) == program for pid in _own_children())


def kill_children() -> Children:
    """Kill every child of this process and reap those that have ended; return how many there were.

    Their own children become children of this process, and those that were just killed take a moment to end: all of them
    are gone when none is `left`, but for those that are `spared`. It does not wait.
    """
    children = _own_children()
    forbidden = [pid for pid in children if not _kill(pid)]
    reaped = {pid for pid in children if _reap(pid)}
    spared = sum(pid not in reaped for pid in forbidden)
    return Children(len(children) - spared, spared)


def reap_adopted(own: set[int]) -> None:
    """Reap ended orphans. `own` are the processes that this one started, whose exit status somebody waits for."""
    for pid in _own_children():
        if pid not in own and _state(pid) == "Z":
            _reap(pid)


def kill_stale(workspaces: Path, *, but: Collection[str] = ()) -> int:
    """Kill the processes that killed agents and hosts left running in these workspaces; return how many.

    Those of the step runs `but` are left alone.
    """
    kept = {_mark_of(step_run_id) for step_run_id in but}
    return _kill_marked(f"ARCENTRA_WORKSPACE={workspaces}/".encode(), kept.isdisjoint)


def kill_abandoned(workspaces: Path, step_run_id: str) -> int:
    """Kill what is left of a step run in these workspaces when its host has been killed; return how many.

    It takes some time, so it is not for the event loop.
    """
    beginning, mark = f"ARCENTRA_WORKSPACE={workspaces}/".encode(), _mark_of(step_run_id)
    killed = quiet = 0
    for _ in range(_PASSES):
        found = _kill_marked(beginning, lambda environment: mark in environment)
        killed += found
        # Not once: a process that is just starting a program shows no environment for a moment.
        quiet = 0 if found else quiet + 1
        if quiet == _QUIET_PASSES:
            break
        time.sleep(_LOOK_PAUSE)
    return killed


def _kill_marked(beginning: bytes, is_meant: Callable[[list[bytes]], bool]) -> int:
    """Kill every process with a variable that begins so and an environment that is meant; return how many."""
    killed = 0
    for pid in _all_processes():
        environment = _environment(pid) if pid != os.getpid() else []
        if any(entry.startswith(beginning) for entry in environment) and is_meant(environment):
            _kill(pid)
            killed += 1
    return killed


def _mark_of(step_run_id: str) -> bytes:
    return f"ARCENTRA_STEP_RUN_ID={step_run_id}".encode()


def _own_children() -> list[int]:
    pids: list[int] = []
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            pids += [int(pid) for pid in listing.read_text().split()]
    return pids


def _all_processes() -> Iterator[int]:
    with contextlib.suppress(OSError):
        for entry in _PROC.iterdir():
            if entry.name.isdigit():
                yield int(entry.name)


def _environment(pid: int) -> list[bytes]:
    """Return the environment a process was started with; empty for one that is gone, a zombie or another user's."""
    try:
        content = (_PROC / str(pid) / "environ").read_bytes()
        return content.split(b"\0") if content else []
    except OSError:
        return []


def _state(pid: int) -> str:
    """Return the kernel's state letter; the name before it may hold anything, so it is found from behind."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _name(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""


def _kill(pid: int) -> bool:
    """Kill a process; one that has ended is fine. Tell whether this process may."""
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(pid, signal.SIGKILL)
        except PermissionError:
            return False
    return True


def _reap(pid: int) -> bool:
    """Reap a child if it has ended; tell whether it is gone."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return True
