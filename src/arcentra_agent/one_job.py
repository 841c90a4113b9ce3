"""The job of an agent that takes one only, and what is kept of it for the next process of the agent."""

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from arcentra_agent.step_host.files import write_durably
from arcentra_agent.step_host.lenient import known_fields
from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.steprun.v1 import steprun_pb2

_SUCCESS = steprun_pb2.STEP_RUN_STATUS_SUCCESS
_RUNNING = steprun_pb2.STEP_RUN_STATUS_RUNNING
_log = structlog.get_logger("arcentra_agent")


@dataclass(slots=True)
class _Taken:
    """A step run of the job: its place in it, and how it ended, which is badly until it is known."""

    place: int
    may_fail: bool = False
    lease_token: str = ""
    went_well: bool = False


class OneJob:
    """Takes the first job that comes, with all its steps, and knows how it went.

    `on_over` is called when the server has said that nothing more of the job comes to this agent. All of it is kept in
    `file`, so that the next process of the agent goes on with the same job. `held` are the jobs that a process before
    this one was at: the one that is kept counts only if it is among them, or over, and where none was kept, the first of
    them is the job.
    """

    def __init__(self, on_over: Callable[[], None], file: Path, held: Collection[str] = ()) -> None:
        self._on_over = on_over
        self._file = file
        # In the order in which they came.
        self._taken: dict[str, _Taken] = {}
        self._job_id = ""
        self._is_over = False
        self._restore(held)
        self._job_id = self._job_id or next(iter(held), "")
        if self._is_over:
            self._on_over()

    @property
    def is_taken(self) -> bool:
        """Tell whether the job has come: from then on the agent wants nothing else."""
        return bool(self._job_id)

    @property
    def is_over(self) -> bool:
        """Tell whether nothing more of the job comes."""
        return self._is_over

    @property
    def went_well(self) -> bool:
        """Tell whether the job is over and its steps here ended well, or need not have; of repeated ones the last."""
        last = {taken.place: taken.went_well for taken in self._taken.values()}
        return self._is_over and all(last.values())

    def takes(self, run: agent_pb2.StepRun) -> bool:
        """Take a step run, unless it is one of another job."""
        if run.job_id != (self._job_id or run.job_id):
            return False
        self._job_id = run.job_id
        known = self._taken.get(run.step_run_id)
        if known is None or known.lease_token != run.lease_token:
            self._taken[run.step_run_id] = _Taken(run.step_index, run.continue_on_error, run.lease_token)
            self._keep()
        return True

    def committed(self, report: agent_pb2.TaskStatus) -> None:
        """Take note of how a step ended."""
        if report.status != _RUNNING:
            # Of a step that was taken over from an earlier version nothing is known but its end.
            taken = self._taken.setdefault(report.step_run_id, _Taken(-1))
            taken.went_well = taken.may_fail or report.status == _SUCCESS
            self._keep()

    def refused(self, report: agent_pb2.TaskStatus) -> None:
        """Take note that the server has taken a step away, and its job with it."""
        taken = self._taken.get(report.step_run_id)
        if taken is None or taken.lease_token == report.lease_token:
            self._taken[report.step_run_id] = _Taken(-1, lease_token=report.lease_token)
            self._end()

    def released(self, job_ids: Iterable[str]) -> None:
        """Take note of jobs that the server has released."""
        if self.is_taken and self._job_id in job_ids:
            self._end()

    def forget(self) -> None:
        """Keep nothing of a job that is over: the next process of the agent may take another."""
        if self._is_over:
            self._file.unlink(missing_ok=True)

    def _end(self) -> None:
        self._is_over = True
        self._keep()
        self._on_over()

    def _keep(self) -> None:
        """Write it down; without room for it, the next process of the agent knows less of the job."""
        steps = {step_run_id: asdict(taken) for step_run_id, taken in self._taken.items()}
        kept = {"job_id": self._job_id, "is_over": self._is_over, "steps": steps}
        try:
            write_durably(self._file, json.dumps(kept).encode())
        except OSError as error:
            _log.warning("one_job_not_kept", path=str(self._file), error=str(error))

    def _restore(self, held: Collection[str]) -> None:
        try:
            kept = json.loads(self._file.read_bytes())
            job_id, is_over = str(kept["job_id"]), bool(kept["is_over"])
            taken = {name: _Taken(**known_fields(_Taken, step)) for name, step in kept["steps"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("one_job_not_read", path=str(self._file), error=str(error))
            return
        # Of a job whose workspace is gone nothing will be heard any more.
        if is_over or job_id in held:
            self._job_id, self._is_over, self._taken = job_id, is_over, taken
