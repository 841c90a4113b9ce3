"""The server's log file."""

import os
from pathlib import Path

ROTATE_BYTES = 16 * 1024 * 1024
_TAIL_BYTES = 4096


class LogFile:
    """A log of bounded size: a big one is set aside at the next start, and replaces the one before it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin = 0

    def open(self) -> int:
        """Open it for a new server and return the descriptor, which the caller closes."""
        if self.path.exists() and self.path.stat().st_size > ROTATE_BYTES:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._begin = os.fstat(fd).st_size
        return fd

    def tail(self) -> str:
        """The last lines (at most 4 KiB) since it was last opened."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(self._begin, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return file.read().decode(errors="replace").strip()
        except FileNotFoundError:
            return ""
