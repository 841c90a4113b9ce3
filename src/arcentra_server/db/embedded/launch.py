"""Starting PostgreSQL's programs: under a user they accept, and never outliving us."""

import asyncio
import os
import shutil
import signal
import stat
import sys
import threading
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from arcentra_server.db.embedded.errors import LaunchError
from arcentra_server.db.embedded.layout import Layout

NOBODY = 65534
_IN_USER_NAMESPACE = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--")
_LINUX_TOOLS = ("setpriv", "unshare", "env", "sh")
# The death signal is armed before this runs, so a parent that died earlier shows as another parent: then do not start.
_ONLY_UNDER_PARENT = '[ "$PPID" = "$1" ] || exit 70; shift; exec "$@"'


@dataclass(frozen=True)
class Launcher:
    """How a program becomes the user `uid`, to whom the files of the cluster belong."""

    uid: int
    gid: int
    become: tuple[str, ...] = ()

    def command(self, argv: Sequence[str], *, death_signal: str) -> list[str]:
        """The argv that runs `argv` and has the kernel send it `death_signal` when this process dies."""
        if sys.platform != "linux":
            return list(argv)
        # A shell's background job ignores SIGINT and hands that down; the death signal must not be ignored.
        armed = ("setpriv", "--pdeathsig", death_signal, "--", "env", "--default-signal=INT")
        return [*self.become, *armed, "sh", "-c", _ONLY_UNDER_PARENT, "sh", str(os.getpid()), *argv]

    def own(self, path: Path) -> None:
        """Give `path`, and all below it, to the user of the server, where it is not theirs already."""
        if os.geteuid() != 0 or path.lstat().st_uid == self.uid:
            return
        for folder, folders, files in os.walk(path, topdown=False):
            for name in (*folders, *files):
                os.chown(Path(folder, name), self.uid, self.gid, follow_symlinks=False)
        # Last, so that a walk cut short is walked again.
        os.chown(path, self.uid, self.gid, follow_symlinks=False)


async def choose_launcher(layout: Layout, bindir: Path) -> Launcher:
    """Decide as which user the server runs: PostgreSQL refuses to run as root.

    An ordinary user stays itself. For root, a cluster that belongs to somebody is run by its owner; root's own is run
    in a user namespace, where root is not called root and files stay root's; where such namespaces are forbidden, it is
    given to an unprivileged user.

    Raises:
        LaunchError: a tool is missing, or the unprivileged user cannot reach the files.
    """
    if threading.current_thread() is not threading.main_thread():
        # The kernel's death signal follows the thread that forked, not the process.
        raise LaunchError("the embedded PostgreSQL must be started from the main thread")
    if sys.platform == "linux":
        _require_tools()
    if os.geteuid() != 0:
        return Launcher(os.geteuid(), os.getegid())
    owner = _owner(layout)
    if owner.st_uid != 0:
        return await _dropping_to(owner.st_uid, owner.st_gid, layout, bindir)
    code, _ = await run([*_IN_USER_NAMESPACE, str(bindir / "postgres"), "--version"])
    if code == 0:
        return Launcher(0, 0, _IN_USER_NAMESPACE)
    return await _dropping_to(NOBODY, NOBODY, layout, bindir)


async def run(command: Sequence[str]) -> tuple[int, str]:
    """Run a short command to its end; a cancelled caller leaves nothing running. Returns the code and the output."""
    process = await spawn(command, output=PIPE)
    try:
        output, _ = await process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    return process.returncode or 0, output.decode(errors="replace")


async def spawn(command: Sequence[str], *, output: int) -> Process:
    """Start a command in a session of its own (a terminal's Ctrl-C is ours alone) and a small, fixed environment.

    Raises:
        LaunchError: the program cannot be executed.
    """
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
            env=environment,
            cwd="/",  # ours may be closed to the user of the server
            start_new_session=True,
        )
    except OSError as error:
        raise LaunchError(f"cannot run {command[0]}: {error}") from error


async def _dropping_to(uid: int, gid: int, layout: Layout, bindir: Path) -> Launcher:
    become = ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--")
    if layout.root.stat().st_uid != uid:
        _let_pass(layout.root)
    for path in (layout.root, bindir / "postgres"):
        code, _ = await run([*become, "test", "-x", str(path)])
        if code != 0:
            raise LaunchError(
                f"PostgreSQL cannot run as root, and the user {uid} that would run it cannot reach {path}: "
                "move it below directories that others may enter, or start the server as an ordinary user"
            )
    return Launcher(uid, gid, become)


def _let_pass(directory: Path) -> None:
    """Let others pass through the data directory, without letting them list it. Its parents are not ours to change."""
    mode = stat.S_IMODE(directory.stat().st_mode)
    directory.chmod(mode | stat.S_IXGRP | stat.S_IXOTH)


def _owner(layout: Layout) -> os.stat_result:
    return (layout.cluster if layout.cluster.exists() else layout.root).stat()


def _require_tools() -> None:
    missing = [tool for tool in _LINUX_TOOLS if shutil.which(tool) is None]
    if missing:
        raise LaunchError(
            f"the embedded PostgreSQL needs {', '.join(missing)}, not found in PATH: install util-linux and coreutils"
        )


def send(process: Process, number: signal.Signals) -> None:
    """Signal a process that may have ended already."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)
