"""The output of one step run, on its way from its processes into a file on disk.

The processes get a pipe and not the file: scripts that write to `/dev/stderr` would truncate a file (`O_TRUNC` through
`/proc/self/fd`), and a full disk would be the script's problem where it is the agent's. A thread a step copies in large
pieces and never waits for the event loop or the network, so the copy is not what slows a chatty process down. Secrets
are masked on this way: none of them reaches the disk.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

from arcentra_agent.masking import Masker

_PIPE_BYTES = 1 << 20
_READ_BYTES = 1 << 18
# A file grows by so many bytes before it is looked again at how large all of them are.
_LOOK_BYTES = 1 << 20
# What may be the beginning of a secret is shown when it has stayed the end of the output for so long.
_QUIET_MS = 500


class Spool:
    """A pipe for processes to write to, and the growing file it ends in.

    `on_full` is called once, in the event loop, when the file cannot grow any more; from then on output is read and
    thrown away, so that the process does not hang while it is being stopped. All files beside it may have `limit` bytes
    together, and about 1 MiB more for each that grows; 0 is no limit.

    `size` counts what the file had to hold, also after `discard`, which empties it.
    """

    def __init__(
        self, path: Path, on_full: Callable[[OSError], None], masker: Masker | None = None, limit: int = 0
    ) -> None:
        self.path = path
        self.size = 0
        self._on_full = on_full
        self._masker = masker
        self._limit = limit
        self._next_look = 0
        self._loop = asyncio.get_running_loop()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._reader, self._writer = os.pipe()
        self._stop_reader, self._stop_writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._stop_reader, False)
        _widen(self._writer)
        self._failed = False
        self._is_unwanted = False
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._copy, name=f"spool-{path.stem}", daemon=True)
        self._thread.start()

    @property
    def writer(self) -> int:
        """The descriptor that processes get as their standard output and error."""
        return self._writer

    async def close(self) -> None:
        """Copy what is in the pipe, then end, even if a process that escaped still holds the other side open."""
        if self._writer < 0:
            return
        os.close(self._writer)
        self._writer = -1
        os.close(self._stop_writer)
        await self._ended.wait()

    def discard(self) -> None:
        """Give the room back that the file takes, and only count what comes: nobody wants it."""
        if self._writer >= 0:
            # Done by the thread, which may be writing just now.
            os.write(self._stop_writer, b".")

    def _copy(self) -> None:
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        poller.register(self._stop_reader, select.POLLIN)
        try:
            ended = False
            while not ended:
                ready = poller.poll(_QUIET_MS if self._is_holding else None)
                if not ready:
                    self._flush()
                told = any(descriptor == self._stop_reader for descriptor, _ in ready)
                # What `discard` has written, or nothing any more: then it is the end.
                stopping = told and not os.read(self._stop_reader, _READ_BYTES)
                if told and not stopping:
                    self._throw_away()
                ended = self._drain() or stopping
            self._flush()
        finally:
            for descriptor in (self._reader, self._stop_reader, self._file):
                os.close(descriptor)
            # The loop may be gone already when the agent is ended in a hurry.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ended.set)

    def _drain(self) -> bool:
        """Copy until the pipe is empty; tell whether every writer is gone."""
        while True:
            try:
                data = os.read(self._reader, _READ_BYTES)
            except BlockingIOError:
                return False
            if not data:
                return True
            self._store(self._masker.feed(data) if self._masker else data)

    @property
    def _is_holding(self) -> bool:
        return self._masker is not None and self._masker.is_holding

    def _flush(self) -> None:
        if self._masker is not None:
            self._store(self._masker.flush())

    def _store(self, data: bytes) -> None:
        if self._is_unwanted:
            self.size += len(data)
            return
        rest = memoryview(data)
        while rest and not self._failed:
            try:
                self._look_around()
                written = os.write(self._file, rest)
            except OSError as error:
                self._failed = True
                self._loop.call_soon_threadsafe(self._on_full, error)
                return
            self.size += written
            rest = rest[written:]

    def _throw_away(self) -> None:
        self._is_unwanted = True
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)

    def _look_around(self) -> None:
        """Refuse to grow when the logs of all steps take too much, which need not be the fault of this one."""
        if not self._limit or self.size < self._next_look:
            return
        if bytes_in(self.path.parent) >= self._limit:
            raise OSError(
                errno.EDQUOT, f"the logs on this agent take more than its --spool-limit of {self._limit} bytes"
            )
        self._next_look = self.size + min(_LOOK_BYTES, max(1, self._limit // 8))


def bytes_in(directory: Path) -> int:
    """Return the size of all files that lie in a directory."""
    size = 0
    for file in directory.iterdir():
        with contextlib.suppress(OSError):
            size += file.stat().st_size
    return size


def is_disk_full(error: OSError) -> bool:
    """Tell whether the error means that there is no room left, on the disk or in the owner's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _widen(descriptor: int) -> None:
    """Ask for a larger pipe, so that a burst is taken in one go; the default size is good enough where it is refused."""
    set_size: int | None = getattr(fcntl, "F_SETPIPE_SZ", None)
    if set_size is None:
        return
    try:
        fcntl.fcntl(descriptor, set_size, _PIPE_BYTES)
    except OSError:
        return
