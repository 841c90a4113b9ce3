"""The agent's directory: one agent at a time, and nothing left of the one before but its credential."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from arcentra_agent import orphans
from arcentra_agent.workspaces import remove_tree

_log = structlog.get_logger("arcentra_agent")


class WorkDirBusyError(Exception):
    """Another agent runs on this work directory."""


@dataclass(slots=True)
class WorkDir:
    """The paths below a work directory, and its lock while it is open."""

    root: Path
    _lock: int = -1

    @property
    def credential(self) -> Path:
        return self.root / "agent.json"

    @property
    def workspaces(self) -> Path:
        return self.root / "workspaces"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    def __enter__(self) -> Self:
        """Lock the directory, then make it clean.

        Raises:
            WorkDirBusyError: when another agent holds it.
            OSError: when it cannot be made or written.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root = self.root.resolve()
        self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise WorkDirBusyError(f"another agent runs on {self.root}; give this one its own --work-dir") from error
        self._clean()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing gives the lock up. The file stays: removing it would let two agents lock two files of one name.
        os.close(self._lock)

    def _clean(self) -> None:
        """Remove what an earlier agent left: it does not know those step runs any more, and neither do we."""
        if killed := orphans.kill_stale(self.root / "workspaces"):
            _log.warning("stale_processes_killed", count=killed)
        for directory in (self.workspaces, self.logs, self.scratch, self.trash):
            if directory.exists():
                remove_tree(directory)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
