"""The fence around this process: every connection is vetted, no program is started, no file of others is read.

Services of apprise take options in their address that name files and programs of the machine. A hook of the interpreter
sees each use of them, whatever library makes it; it cannot be removed. It does not confine native code.
"""

from __future__ import annotations

import mimetypes
import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from arcentra_server.notify.egress import Egress

_REFUSED = (
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "pty.",
    "syslog.",
    "socket.bind",
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def confine(egress: Egress, readable: Iterable[str]) -> None:
    """Put up the fence for the rest of the life of the process.

    Args:
        egress: Vets connections.
        readable: Files that may be read beside those of Python itself.
    """
    fence = _Fence(egress, readable)
    socket.getaddrinfo = egress.getaddrinfo  # type: ignore[assignment]  # found there by every library
    sys.addaudithook(fence.check)


class _Fence:
    def __init__(self, egress: Egress, readable: Iterable[str]) -> None:
        self._egress = egress
        places = [sys.prefix, sys.base_prefix, *sys.path, "/usr/share/zoneinfo", "/dev/null", "/dev/urandom"]
        resolved = {os.path.realpath(place) for place in (*places, *mimetypes.knownfiles, *readable) if place}
        self._readable = tuple(resolved - {os.sep})

    def check(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raise for what is not allowed; the interpreter calls it for each use of its interfaces."""
        if event == "open":
            self._check_open(*arguments)
        elif event in {"socket.connect", "socket.sendto"} or (event == "socket.sendmsg" and arguments[1] is not None):
            self._egress.vet_connection(arguments[1])
        elif event.startswith(_REFUSED):
            raise PermissionError(f"{event} is not for this process")

    def _check_open(self, path: Any, mode: str | None, flags: int) -> None:
        if isinstance(path, int):
            return  # a file that is open already
        writes = bool(flags & _WRITES) if mode is None else any(letter in mode for letter in "wax+")
        place = os.path.realpath(os.fsdecode(path))
        inside = any(place == root or place.startswith(root + os.sep) for root in self._readable)
        if (writes and place != os.devnull) or not inside:
            raise PermissionError(f"{Path(place).name} is not for this process")
