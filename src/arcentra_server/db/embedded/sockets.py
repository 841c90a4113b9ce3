"""The directory of the server's Unix socket."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from arcentra_server.db.embedded.errors import LaunchError
from arcentra_server.db.embedded.launch import Launcher
from arcentra_server.db.embedded.layout import PORT, Layout

# The smallest of the systems' limits for the path of a socket, with its closing zero (macOS 104, Linux 108).
_LONGEST_SOCKET_PATH = 103
_PREFIX = "arcentra-pg-"


def make_socket_dir(layout: Layout, launcher: Launcher, before: Path | None) -> Path:
    """Make a private, empty directory for the socket, and remove that of an earlier start.

    It stands in the data directory; if that path will not do for a socket it stands in the temporary directory, and a
    link in the data directory leads to it, by which the next start finds and removes it should this one be killed.
    `before`: where it was at the last start, to which clients come back; it is there again unless the name was taken.

    Raises:
        LaunchError: no place has a path that will do.
    """
    remove_socket_dir(layout)
    if _usable(layout.socket_dir):
        layout.socket_dir.mkdir(mode=0o700)
        launcher.own(layout.socket_dir)
        return layout.socket_dir
    directory = _temporary_dir(before)
    try:
        launcher.own(directory)
        layout.socket_dir.symlink_to(directory)
    except BaseException:
        shutil.rmtree(directory)
        raise
    return directory


def remove_socket_dir(layout: Layout) -> None:
    """Remove the socket directory, wherever it stands, if there is one."""
    link = layout.socket_dir
    if link.is_symlink():
        target = link.readlink()
        # The link is ours, but what it names may have gone and come again as somebody else's.
        if target.name.startswith(_PREFIX) and not target.is_symlink() and _belongs_to_us(target, layout):
            shutil.rmtree(target)
        link.unlink()
    elif link.exists():
        shutil.rmtree(link)


def _belongs_to_us(target: Path, layout: Layout) -> bool:
    with suppress(FileNotFoundError):
        return target.stat().st_uid in {os.geteuid(), layout.cluster.stat().st_uid}
    return False


def _temporary_dir(before: Path | None) -> Path:
    if before is not None:
        with suppress(OSError):
            before.mkdir(mode=0o700)  # fails on whatever stands there, also on a link
            return before
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp makes a private directory below it
        if _usable(Path(parent) / f"{_PREFIX}12345678"):
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    raise LaunchError(
        f"the paths of the data directory and of {tempfile.gettempdir()} will not do for a Unix socket (over "
        f"{_LONGEST_SOCKET_PATH} bytes with its name, or a comma): choose another data directory or set TMPDIR to one"
    )


def _usable(directory: Path) -> bool:
    # Clients take a comma for the end of one host and the begin of the next.
    return "," not in str(directory) and len(os.fsencode(directory / f".s.PGSQL.{PORT}")) <= _LONGEST_SOCKET_PATH
