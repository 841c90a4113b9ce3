"""What a followed run tells its reader, decided from status messages alone. Pure: no clock, no I/O.

The three status streams and the logs arrive independently. A step's end is told once its log has been shown to the
end, a job's end once its steps' ends have been told, so that the story reads in the order in which things happened.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from arcentra_api.stream.v1 import stream_pb2
from arcentra_cli.render import words


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the reader of a change: `status` of `subject`, and a few words more."""

    subject: str
    status: str
    more: str = ""


@dataclass(frozen=True, slots=True)
class OpenLog:
    """Start to show the log of a step run, each line behind `label`."""

    step_run_id: str
    label: str


Action = Say | OpenLog


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run is; `active` names the running steps, `waiting` the queued ones."""

    status: str
    completed: int
    total: int
    failed: int
    active: tuple[str, ...]
    waiting: tuple[str, ...]


@dataclass(slots=True)
class _Step:
    label: str
    job_id: str
    status: str = ""
    log_shown: bool = False
    log_open: bool = False
    untold_end: Say | None = None

    @property
    def settled(self) -> bool:
        return self.status in words.TERMINAL and not self.log_open and self.untold_end is None


@dataclass(slots=True)
class _Job:
    name: str
    status: str = ""
    total_steps: int = 0
    untold_end: Say | None = None
    names: dict[str, int] = field(default_factory=dict)


class Story:
    """The followed run as far as it is known."""

    def __init__(self, past_steps: Iterable[str] = (), agents: Mapping[str, str] | None = None) -> None:
        """Begin.

        Args:
            past_steps: step runs that had ended before the following began; their logs are not shown.
            agents: names of agents by id; others are told by their id.
        """
        self._past = frozenset(past_steps)
        self._agents = agents or {}
        self._steps: dict[str, _Step] = {}
        self._jobs: dict[str, _Job] = {}
        self._run = ""
        self._counts = (0, 0, 0)

    def on_run(self, message: stream_pb2.StreamPipelineStatusResponse) -> list[Action]:
        """Take a change of the run. Its end is told by the summary, not here."""
        self._counts = (message.completed_jobs, message.total_jobs, message.failed_jobs)
        status = words.pipeline_status(message.status)
        if status == self._run:
            return []
        previous, self._run = self._run, status
        told = status == "PAUSED" or (status == "RUNNING" and previous in {"", "PENDING", "PAUSED"})
        return [Say("run", status)] if told else []

    def on_job(self, message: stream_pb2.StreamJobStatusResponse) -> list[Action]:
        """Take a change of a job."""
        job = self._jobs.setdefault(message.job_id, _Job(message.job_name))
        status = words.pipeline_status(message.status)
        if status == job.status:
            return []
        job.status = status
        job.total_steps = message.total_steps
        if status in words.TERMINAL:
            job.untold_end = Say(job.name, status, _took(message.duration))
            return list(self._settle(message.job_id))
        return [] if status == "PENDING" else [Say(job.name, status)]

    def on_step(self, message: stream_pb2.StreamStepRunStatusResponse) -> list[Action]:
        """Take a change of a step run."""
        step = self._step(message)
        status = words.step_status(message.status)
        if status == step.status or step.status in words.TERMINAL:
            return []
        ran = (
            step.status == "RUNNING" or status in {"RUNNING", "SUCCESS", "FAILED", "TIMEOUT"} or bool(message.agent_id)
        )
        step.status = status
        actions: list[Action] = []
        if status == "RUNNING":
            agent = self._agents.get(message.agent_id, message.agent_id)
            actions = [Say(step.label, status, f"on {agent}" if agent else "")]
        elif status == "QUEUED" and self._jobs[step.job_id].status != "RUNNING":
            actions = [Say(step.label, status, "waits for an agent")]
        if ran and self._has_log(message.step_run_id, status) and not step.log_shown:
            step.log_shown = step.log_open = True
            actions.append(OpenLog(message.step_run_id, step.label))
        if status in words.TERMINAL:
            step.untold_end = Say(step.label, status, _end_of_step(message, status))
            actions += self._settle(step.job_id)
        return actions

    def on_log_end(self, step_run_id: str) -> list[Action]:
        """Take that the log of a step run has been shown to its end."""
        step = self._steps[step_run_id]
        step.log_open = False
        return list(self._settle(step.job_id))

    def closing(self) -> list[Action]:
        """Every end not told yet, when nothing more will come."""
        for step in self._steps.values():
            step.log_open = False
        return [action for job_id in self._jobs for action in self._settle(job_id, at_close=True)]

    @property
    def progress(self) -> Progress:
        """How far the run is."""
        completed, total, failed = self._counts
        active = tuple(step.label for step in self._steps.values() if step.status == "RUNNING")
        waiting = tuple(step.label for step in self._steps.values() if step.status == "QUEUED")
        return Progress(self._run or "PENDING", completed, total, failed, active, waiting)

    def _step(self, message: stream_pb2.StreamStepRunStatusResponse) -> _Step:
        known = self._steps.get(message.step_run_id)
        if known is None:
            job = self._jobs.setdefault(message.job_id, _Job(message.job_name))
            attempt = job.names[message.step_name] = job.names.get(message.step_name, 0) + 1
            label = f"{message.job_name}/{message.step_name}" + (f"#{attempt}" if attempt > 1 else "")
            known = self._steps[message.step_run_id] = _Step(label, message.job_id)
        return known

    def _has_log(self, step_run_id: str, status: str) -> bool:
        ended = status in words.TERMINAL and status != "SKIPPED"
        return status == "RUNNING" or (ended and step_run_id not in self._past)

    def _settle(self, job_id: str, *, at_close: bool = False) -> Iterator[Say]:
        steps = [step for step in self._steps.values() if step.job_id == job_id]
        for step in steps:
            if step.untold_end and not step.log_open:
                yield step.untold_end
                step.untold_end = None
        job = self._jobs[job_id]
        settled = len(steps) >= job.total_steps and all(step.settled for step in steps)
        if job.untold_end and (settled or at_close):
            yield job.untold_end
            job.untold_end = None


def _took(milliseconds: int) -> str:
    return f"in {words.duration(milliseconds)}" if milliseconds else ""


def _end_of_step(message: stream_pb2.StreamStepRunStatusResponse, status: str) -> str:
    exit_code = f"exit {message.exit_code}" if message.exit_code and status == "FAILED" else ""
    error = message.error_message if status != "SUCCESS" else ""
    return ", ".join(part for part in (_took(message.duration), exit_code, error) if part)
