"""The job of an agent that takes one only. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.steprun.v1 import steprun_pb2

_SUCCESS = steprun_pb2.STEP_RUN_STATUS_SUCCESS
_RUNNING = steprun_pb2.STEP_RUN_STATUS_RUNNING


@dataclass(slots=True)
class _Taken:
    """A step run of the job: its place in it, and how it ended, which is badly until it is known."""

    place: int
    may_fail: bool
    lease_token: str
    went_well: bool = False


class OneJob:
    """Takes the first job that comes, with all its steps, and knows how it went.

    `on_over` is called when the server has said that nothing more of the job comes to this agent. `left` are the jobs
    that a process of the agent before this one was at: then the first of them is the job.
    """

    def __init__(self, on_over: Callable[[], None], left: Iterable[str] = ()) -> None:
        self._on_over = on_over
        self._job_id = next(iter(left), "")
        # In the order in which they came.
        self._taken: dict[str, _Taken] = {}
        self._is_over = False

    @property
    def is_taken(self) -> bool:
        """Tell whether the job has come: from then on the agent wants nothing else."""
        return bool(self._job_id)

    @property
    def went_well(self) -> bool:
        """Tell whether the job is over and its steps here ended well, or need not have; of repeated ones the last."""
        last = {taken.place: taken.went_well for taken in self._taken.values()}
        return self._is_over and all(last.values())

    def takes(self, run: agent_pb2.StepRun) -> bool:
        """Take a step run, unless it is one of another job."""
        self._job_id = self._job_id or run.job_id
        if run.job_id != self._job_id:
            return False
        self._taken[run.step_run_id] = _Taken(run.step_index, run.continue_on_error, run.lease_token)
        return True

    def committed(self, report: agent_pb2.TaskStatus) -> None:
        """Take note of how a step ended."""
        if report.status != _RUNNING:
            # Of a step that was taken over nothing is known but its end.
            taken = self._taken.setdefault(report.step_run_id, _Taken(-1, may_fail=False, lease_token=""))
            taken.went_well = taken.may_fail or report.status == _SUCCESS

    def refused(self, report: agent_pb2.TaskStatus) -> None:
        """Take note that the server has taken a step away, and its job with it."""
        taken = self._taken.get(report.step_run_id)
        if taken is None or taken.lease_token == report.lease_token:
            self._taken[report.step_run_id] = _Taken(-1, may_fail=False, lease_token=report.lease_token)
            self._end()

    def released(self, job_ids: Iterable[str]) -> None:
        """Take note of jobs that the server has released."""
        if self.is_taken and self._job_id in job_ids:
            self._end()

    def _end(self) -> None:
        self._is_over = True
        self._on_over()
