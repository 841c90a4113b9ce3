"""The journal of one agent: lines of JSON, each on the disk before the agent goes on.

Times are seconds of CLOCK_BOOTTIME, which all processes of one machine share and which goes on while they are stopped.
A line has `kind`, and by it:

- `boot`: an agent began, `agent` (id), `boot` (of the process), `at`.
- `taken`: a dispatch came, `step`, `attempt`, `lease`.
- `start`: a process started, `step`, `job`, `index`, `attempt`, `lease`, `at`, `until` (its end, if nothing ends it
  before).
- `end`: it ended, `step`, `lease`, `at`, `outcome`, `why` (`done`, `cancelled`, `watchdog`, `refused`), `log_len`,
  `log_crc` (of the log it wrote).
- `verdict`: a report was answered, `step`, `lease`, `status`, `accepted`, `reason`, `at`.
- `told`: the server sent a cancel, `step`, `at`.
- `heard`: the server answered a sign of life that was sent `at`.
- `event`: an event was made, `seq`, `event_id`.
- `stored`: the server said that it has all events up to `seq`.
- `died`: the machine of the agent was ended, `at`: written by whoever did that.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

Line = dict[str, Any]


def boot_time() -> float:
    """Return the seconds since the machine started, also those in which it or we stood still."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Journal:
    """Appends to the journal of one agent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        torn = path.exists() and not path.read_bytes().endswith(b"\n")
        self._file: TextIO = path.open("a", encoding="ascii")
        if torn:
            self._file.write("\n")

    def write(self, kind: str, **fields: Any) -> None:
        """Bring one line to the disk."""
        self._file.write(json.dumps({"kind": kind, **fields}) + "\n")
        self._file.flush()
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a journal; the last one may be torn, as its writer was killed, and is then left out."""
    if not path.exists():
        return
    for text in path.read_text(encoding="ascii").split("\n"):
        try:
            yield json.loads(text)
        except json.JSONDecodeError:
            continue
