"""What a followed run tells its reader, decided from status messages alone. Pure: no clock, no I/O.

The three status streams and the logs arrive independently. A step's end is told once its log has been shown to the
end, a job's end once its steps' ends have been told, so that the story reads in the order in which things happened.

The streams say only of which kind it is what something waits for. The story asks to look at the run for the names, and
tells of what still waits by then: what waits a moment only is not told.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.stream.v1 import stream_pb2
from arcentra_cli.follow.waits import waits_of
from arcentra_cli.render import waiting, words
from arcentra_cli.terminal import one_line

# Waits that a reader of the status line wants to know of while nothing runs: they may last, and may be for the reader.
_NOTABLE_WAITS = frozenset({"approval", "concurrency", "retry"})


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


@dataclass(frozen=True, slots=True)
class Look:
    """Read the run as it stands and hand it to `on_look`."""


Action = Say | OpenLog | Look


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run is; `active` names the running steps, `waiting` the queued ones and jobs that may wait long."""

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
    waits_for: str = ""
    total_steps: int = 0
    untold_end: Say | None = None
    # How many step runs of each name are known: the attempts of that step.
    names: dict[str, int] = field(default_factory=dict)

    @property
    def attempt(self) -> int:
        return max(self.names.values(), default=1)

    @property
    def heard_steps(self) -> int:
        """How many steps of the attempt are known."""
        return sum(count == self.attempt for count in self.names.values())


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
        # Job runs and step runs that began to wait and were not told of, each with the number of that puzzle.
        self._puzzles: dict[str, int] = {}
        self._last_puzzle = 0
        self._told_gates: set[str] = set()
        self._most_attempts: dict[str, int] = {}

    @property
    def puzzles(self) -> int:
        """The number of the last puzzle, 0 when there is none left: something waits, and it is not known for what."""
        return self._last_puzzle if self._puzzles else 0

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
        """Take a change of a job: of its state, or only of what it waits for."""
        job = self._jobs.setdefault(message.job_id, _Job(message.job_name))
        status = words.pipeline_status(message.status)
        actions = [] if status == job.status else self._change_job(job, status, message)
        waits_for = "" if status in words.TERMINAL else message.waiting_reason
        if waits_for == job.waits_for:
            return actions
        job.waits_for = waits_for
        # What waits in the queue is told of with its step.
        return [*actions, *self._explain(message.job_id, wanted=waits_for not in {"", "queue"})]

    def _change_job(self, job: _Job, status: str, message: stream_pb2.StreamJobStatusResponse) -> list[Action]:
        job.status = status
        job.total_steps = message.total_steps
        if status in words.TERMINAL:
            job.untold_end = Say(job.name, status, _took(message.duration))
            return list(self._settle(message.job_id))
        actions: list[Action] = []
        if job.untold_end:  # it runs again before its end was told
            actions.append(job.untold_end)
            job.untold_end = None
        if status != "PENDING":
            most = self._most_attempts.get(message.job_id, 0)
            actions.append(Say(job.name, status, waiting.attempt(job.attempt, most) if job.attempt > 1 else ""))
        return actions

    def on_step(self, message: stream_pb2.StreamStepRunStatusResponse) -> list[Action]:
        """Take a change of a step run; one only of what it waits for is told of with its job."""
        step = self._step(message)
        status = words.step_status(message.status)
        if status == step.status or step.status in words.TERMINAL:
            return []
        ran = (
            step.status == "RUNNING" or status in {"RUNNING", "SUCCESS", "FAILED", "TIMEOUT"} or bool(message.agent_id)
        )
        step.status = status
        actions = self._explain(message.step_run_id, wanted=status == "QUEUED")
        if status == "RUNNING":
            agent = self._agents.get(message.agent_id, message.agent_id)
            actions = [Say(step.label, status, f"on {agent}" if agent else "")]
        if ran and self._has_log(message.step_run_id, status) and not step.log_shown:
            step.log_shown = step.log_open = True
            actions.append(OpenLog(message.step_run_id, step.label))
        if status in words.TERMINAL:
            step.untold_end = Say(step.label, status, _end_of_step(message, status))
            actions += self._settle(step.job_id)
        return actions

    def _explain(self, identity: str, *, wanted: bool) -> list[Action]:
        self._puzzles.pop(identity, None)
        if not wanted:
            return []
        self._last_puzzle += 1
        self._puzzles[identity] = self._last_puzzle
        return [Look()]

    def on_look(self, run: pipeline_pb2.PipelineRunDetail, asked: int) -> list[Action]:
        """Take the run as it stands: tell of what began to wait and still does, and of gates once.

        Args:
            run: The run.
            asked: `puzzles` when it was asked for; what became a puzzle since needs another look.
        """
        self._most_attempts = {job.job_run_id: job.max_attempts for job in run.job_runs}
        old = {identity for identity, number in self._puzzles.items() if number <= asked}
        new = [wait for wait in waits_of(run) if wait.id in old]
        gates = [gate for gate in run.pending_approvals if gate.approval_id not in self._told_gates]
        self._puzzles = {identity: number for identity, number in self._puzzles.items() if identity not in old}
        self._told_gates.update(gate.approval_id for gate in gates)
        same: dict[tuple[str, str], list[str]] = {}
        for wait in new:
            same.setdefault((wait.status, wait.text), []).append(wait.subject)
        return [
            *(Say(waiting.names(subjects), status, text) for (status, text), subjects in same.items()),
            *(Say(waiting.gate_name(gate), "PENDING", waiting.how_to_decide(gate)) for gate in gates),
        ]

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
        jobs = [job for job in self._jobs.values() if job.waits_for in _NOTABLE_WAITS]
        queued = [step.label for step in self._steps.values() if step.status == "QUEUED"]
        waits = (*(f"{job.name} {waiting.in_words(job.waits_for)}" for job in jobs), *queued)
        return Progress(self._run or "PENDING", completed, total, failed, active, waits)

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
        settled = job.heard_steps >= job.total_steps and all(step.settled for step in steps)
        if job.untold_end and (settled or at_close):
            yield job.untold_end
            job.untold_end = None


def _took(milliseconds: int) -> str:
    return f"in {words.duration(milliseconds)}" if milliseconds else ""


def _end_of_step(message: stream_pb2.StreamStepRunStatusResponse, status: str) -> str:
    exit_code = f"exit {message.exit_code}" if message.exit_code and status == "FAILED" else ""
    error = one_line(message.error_message) if status != "SUCCESS" else ""
    return ", ".join(part for part in (_took(message.duration), exit_code, error) if part)
