"""What is kept of one step run below the work directory, for this process of the agent and for the next."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from arcentra_agent.outcomes import Outcome, failed
from arcentra_agent.step_host.lenient import known_fields

# An outcome without outputs fits in; with them it needs room that is free.
_RESERVED = 16 * 1024


class DamagedRecordError(ValueError):
    """A record cannot be read; the text says which and why."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """Under which lease a step run was started here, and where; nothing of what it does, as that may be secret.

    Another version of the agent may read it: what is added has a default.
    """

    step_run_id: str
    attempt: int
    lease_token: str
    command_id: str = ""
    pipeline_id: str = ""
    job_id: str = ""
    workspace: str = ""
    uses: str = ""


@dataclass(frozen=True, slots=True)
class StepFiles:
    """The files of one step run. The log and the scratch directory are its own, the rest is in `directory`.

    `control` and `alive` are named pipes. The host reads commands from the one, and holds the other open for as long as
    it lives, so that the end of it is the end of the host, whoever its parent is.
    """

    directory: Path
    log: Path
    scratch: Path

    @classmethod
    def below(cls, root: Path, step_run_id: str) -> "StepFiles":
        """Return the files of a step run in the work directory `root`."""
        return cls(root / "steps" / step_run_id, root / "logs" / f"{step_run_id}.log", root / "scratch" / step_run_id)

    @property
    def record(self) -> Path:
        return self.directory / "step.json"

    @property
    def control(self) -> Path:
        return self.directory / "control"

    @property
    def alive(self) -> Path:
        return self.directory / "alive"

    @property
    def pid(self) -> Path:
        return self.directory / "pid"

    @property
    def outcome(self) -> Path:
        return self.directory / "outcome.json"

    @property
    def container(self) -> Path:
        return self.directory / "container.json"

    @property
    def fault(self) -> Path:
        return self.directory / "fault"

    @property
    def cursor(self) -> Path:
        return self.directory / "cursor"

    def create(self, record: StepRecord) -> None:
        """Note that the step run is about to be started here, with room for its outcome on the disk.

        Raises:
            OSError: when the disk has no room for that.
        """
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)
        self.directory.mkdir(mode=0o700)
        with _opened(_draft(self.outcome)) as draft:
            _write_all(draft, bytes(_RESERVED))
        self.cursor.touch(mode=0o600)
        write_durably(self.record, json.dumps(asdict(record)).encode())

    def make_pipes(self) -> None:
        """Make the named pipes anew, so that no earlier host has them open."""
        for pipe in (self.control, self.alive):
            pipe.unlink(missing_ok=True)
            os.mkfifo(pipe, 0o600)

    def read_record(self) -> StepRecord:
        """Return what `create` noted.

        Raises:
            DamagedRecordError: when that is not there, not whole, or of other types.
        """
        try:
            return _checked(StepRecord(**known_fields(StepRecord, json.loads(self.record.read_bytes()))))
        except (OSError, ValueError, TypeError) as error:
            raise DamagedRecordError(f"{self.record}: {error}") from error

    def keep_outcome(self, outcome: Outcome) -> None:
        """Write down how the step run ended; without room for all of it, that it ended for this reason.

        Raises:
            OSError: when the disk fails.
        """
        try:
            write_durably(self.outcome, json.dumps(asdict(outcome)).encode())
        except OSError as error:
            short = failed(1, f"the outcome of the step cannot be written: {error.strerror}", "disk_full")
            write_durably(self.outcome, json.dumps({**asdict(short), "log_size": outcome.log_size}).encode())

    def read_outcome(self) -> Outcome | None:
        """Return how the step run ended; None when its host ended without saying so."""
        try:
            return Outcome(**known_fields(Outcome, json.loads(self.outcome.read_bytes())))
        except (OSError, ValueError, TypeError):
            return None

    def keep_fault(self, text: str) -> None:
        """Write down why the host itself failed; no secret may be in it.

        Raises:
            OSError: when the disk fails.
        """
        with _opened(self.fault) as descriptor:
            _write_all(descriptor, text.encode("utf-8", "replace"))

    def read_fault(self) -> str:
        """Return why the host itself failed; nothing when it did not, or could not say."""
        try:
            return self.fault.read_text("utf-8", "replace")
        except OSError:
            return ""

    def keep_pid(self, pid: int) -> None:
        """Note the process id of the host.

        Raises:
            OSError: when the disk has no room for it.
        """
        draft = _draft(self.pid)
        draft.write_text(str(pid))
        draft.replace(self.pid)

    def read_pid(self) -> int | None:
        """Return the process id of the host, as long as it runs; None when it has not noted it."""
        try:
            return int(self.pid.read_text())
        except (OSError, ValueError):
            return None

    def remove(self) -> None:
        """Remove the record first: without it the rest is nothing to anybody.

        Raises:
            OSError: when something of it cannot be removed.
        """
        self.record.unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)


def _checked(record: StepRecord) -> StepRecord:
    for field in fields(StepRecord):
        value = getattr(record, field.name)
        if type(value) is not field.type:
            raise TypeError(f"{field.name}: expected {field.type}, got {type(value).__name__}")
    return record


def _draft(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


@contextlib.contextmanager
def _opened(path: Path, flags: int = os.O_WRONLY | os.O_CREAT) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_durably(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all, whatever ends first, the process or the machine.

    Raises:
        OSError: when the disk fails.
    """
    draft = _draft(path)
    # Not truncated before it is written: the room that was reserved for it would be given back.
    with _opened(draft) as descriptor:
        _write_all(descriptor, data)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    draft.replace(path)
    with _opened(path.parent, os.O_RDONLY | os.O_DIRECTORY) as directory:
        os.fsync(directory)
