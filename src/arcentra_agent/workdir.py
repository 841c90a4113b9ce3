"""The agent's directory: one agent at a time, which goes on with what the one before left."""

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import structlog

from arcentra_agent import orphans
from arcentra_agent.step_host.files import DamagedRecordError, StepFiles, StepRecord
from arcentra_agent.trash import Trash
from arcentra_agent.workspaces import Workspaces

_log = structlog.get_logger("arcentra_agent")


class WorkDirBusyError(Exception):
    """Another agent runs on this work directory."""


@dataclass(slots=True)
class WorkDir:
    """The paths below a work directory, and its lock while it is open. `left` are the step runs of an agent before."""

    root: Path
    trash: Trash = field(init=False)
    left: list[StepRecord] = field(default_factory=list)
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
    def steps(self) -> Path:
        return self.root / "steps"

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"

    @property
    def one_job(self) -> Path:
        return self.root / "one-job.json"

    def __enter__(self) -> Self:
        """Lock the directory, then put aside what belongs to nobody; `trash.begin` deletes it.

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

    def files_of(self, step_run_id: str) -> StepFiles:
        """Return where a step run is kept."""
        return StepFiles.below(self.root, step_run_id)

    def _clean(self) -> None:
        """Find the step runs that were left, and throw away what belongs to none of them."""
        trash = self.root / "trash"
        for directory in (self.workspaces, self.steps, self.logs, self.scratch, trash):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.trash = Trash(trash)
        self.left = [record for entry in self.steps.iterdir() if (record := _record(self.files_of(entry.name)))]
        ids = {record.step_run_id for record in self.left}
        if killed := orphans.kill_stale(self.workspaces, but=ids):
            _log.warning("stale_processes_killed", count=killed)
        kept = Workspaces(self.workspaces, self.trash.throw).names
        self._throw_others(self.workspaces, kept | {record.workspace or record.job_id for record in self.left})
        self._throw_others(self.steps, ids)
        self._throw_others(self.scratch, ids)
        self._throw_others(self.logs, {self.files_of(step_run_id).log.name for step_run_id in ids})

    def _throw_others(self, directory: Path, names: set[str]) -> None:
        for entry in directory.iterdir():
            if entry.name in names:
                continue
            try:
                self.trash.throw(entry)
            except OSError as error:
                _log.warning("leftover_not_removed", path=str(entry), error=str(error))


def _record(files: StepFiles) -> StepRecord | None:
    try:
        return files.read_record()
    except DamagedRecordError as error:
        # Written before anything was started, so there is nothing to go on with.
        _log.warning("step_record_damaged", reason=str(error))
        return None
