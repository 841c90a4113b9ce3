"""One server a data directory, held by a lock that the kernel drops with its process."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from arcentra_server.db.embedded.errors import DataDirInUseError
from arcentra_server.db.embedded.layout import Layout


class DataDirLock:
    """The exclusive right to run a server on one data directory."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def acquire(cls, layout: Layout) -> Self:
        """Take the lock, making the data directory if there is none.

        Raises:
            DataDirInUseError: another process, or another object of this one, holds it.
            OSError: the directory cannot be made or written.
        """
        layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(layout.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            os.close(fd)
            raise DataDirInUseError(layout.root, _holder(layout.lock_file)) from None
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    def release(self) -> None:
        """Give the lock back. The file stays: removing it would let two processes lock two files of one name."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def _holder(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None
