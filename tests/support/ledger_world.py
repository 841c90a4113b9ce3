"""One run in a store, built from a compact notation, with verbs for everything that can happen to it.

`World(".. ?. | *")` has two stages; jobs are words, named a, b, c in order; steps are letters, numbered from 1, so that
the second step of the first job is `a2`:

    .   a step      ?   a step with continue_on_error      *   a step with a selector of its own      !   with both
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_lowercase
from uuid import UUID

from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.execution import (
    CancelCause,
    Event,
    JobState,
    Lease,
    Resource,
    RunState,
    StepReport,
    StepState,
)
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import FailureReason, RunStatus, StepStatus
from tests.support.ledger_store import LedgerStore, QueueRow

AGENTS = {"x": UUID(int=1), "y": UUID(int=2), "z": UUID(int=3)}
AGENT_NAMES = {identity: name for name, identity in AGENTS.items()}
SHAPES = ".?*!"


class World:
    """See the module. Steps and jobs are named by their last attempt; every verb is one transaction."""

    def __init__(self, shape: str) -> None:
        stages = [stage.split() for stage in shape.split("|")]
        run_id, pipeline_id = UUID(int=100), UUID(int=101)
        run = RunState(run_id, pipeline_id, RunStatus.PENDING, len(stages), sum(map(len, stages)))
        self.store = LedgerStore(run, {index: len(jobs) for index, jobs in enumerate(stages)})
        self._record(Event(Resource.RUN, pipeline_id, run_id, None, None, None, run.status, None, run.total_jobs))
        self.job_ids: dict[str, UUID] = {}
        names = iter(ascii_lowercase)
        for index, jobs in enumerate(stages):
            for steps in jobs:
                self._insert_job(next(names), index, steps)

    # The rows

    @property
    def run(self) -> RunState:
        return self.store.run

    def job(self, name: str) -> JobState:
        return self.store.jobs[self.job_ids[name]]

    def steps(self, job: str) -> list[StepState]:
        return self.store.current_steps(self.job_ids[job])

    def step(self, name: str) -> StepState:
        return self.steps(name[0])[int(name[1:]) - 1]

    def lease(self, step: str) -> Lease | None:
        return self.store.lease_of(self.step(step).id)

    def holder(self, step: str) -> str | None:
        """Return the agent that has the lease of a step."""
        lease = self.lease(step)
        return AGENT_NAMES[lease.agent_id] if lease else None

    def queued(self, step: str) -> QueueRow | None:
        return self.store.queue.get(self.step(step).id)

    def states(self) -> str:
        """Return the first letters of the states of all last attempts, a word a job; `x` is SKIPPED."""
        return " ".join("".join(_letter(step.status) for step in self.steps(job)) for job in self.job_ids)

    def name(self, step_id: UUID) -> str:
        step = self.store.steps[step_id]
        job = next(name for name, job_id in self.job_ids.items() if job_id == step.job_id)
        return f"{job}{step.index + 1}"

    # What agents do

    def claim(self, agent: str, *steps: str) -> None:
        for step in steps:
            self.store.claim(self.step(step).id, AGENTS[agent])

    def report(
        self,
        agent: str,
        step: str,
        *statuses: StepStatus,
        attempt: int = 0,
        token: str = "",
        exit_code: int = 0,
        message: str = "",
        reason: FailureReason | None = None,
    ) -> None:
        """Report states of a step, in one batch; raise the first refusal."""
        step_id = self.step(step).id
        reports = [
            StepReport(AGENTS[agent], step_id, status, exit_code, message, reason, attempt=attempt, lease_token=token)
            for status in statuses
        ]
        for verdict in self.store.take(reports):
            if verdict is not None:
                raise verdict

    def start(self, agent: str, *steps: str) -> None:
        """Claim steps that are in the queue, and report that they run."""
        for step in steps:
            if self.queued(step) is not None:
                self.claim(agent, step)
            self.report(agent, step, StepStatus.RUNNING)

    def finish(self, agent: str, *steps: str, status: StepStatus = StepStatus.SUCCESS) -> None:
        """Start steps that have not started, and report their end."""
        for step in steps:
            if self.step(step).status is StepStatus.QUEUED:
                self.start(agent, step)
            self.report(agent, step, status)

    # What users and time do

    def cancel_step(self, step: str, reason: str = "", cause: CancelCause = CancelCause.REQUEST) -> None:
        def decide(ledger: Ledger) -> None:
            self.store.load_steps(ledger, [self.step(step).id])
            ledger.cancel_step(ledger.steps[self.step(step).id], reason, cause)

        self.store.change(decide)

    def cancel_job(self, job: str, reason: str = "") -> None:
        def decide(ledger: Ledger) -> None:
            self.store.load_run(ledger)
            ledger.cancel_job(ledger.jobs[self.job_ids[job]], reason)

        self.store.change(decide)

    def fail_job(self, job: str, message: str = "") -> None:
        def decide(ledger: Ledger) -> None:
            self.store.load_run(ledger)
            ledger.fail_job(ledger.jobs[self.job_ids[job]], message)

        self.store.change(decide)

    def stop(self, reason: str = "") -> None:
        self.store.change(lambda ledger: ledger.stop_run(self.store.load_run(ledger), reason))

    def pause(self, reason: str = "", actor: str = "") -> None:
        self.store.change(lambda ledger: ledger.pause(self.store.load_run(ledger), reason, actor))
        self._hold(held=True)

    def resume(self, reason: str = "", actor: str = "") -> None:
        self.store.change(lambda ledger: ledger.resume(self.store.load_run(ledger), reason, actor))
        self._hold(held=False)

    def lose(self, *steps: str, message: str = "", agent_gone: bool = True) -> None:
        """Lose leases: their agents are gone, or did not start the steps in time."""

        def decide(ledger: Ledger) -> None:
            self.store.load_steps(ledger, [self.step(step).id for step in steps])
            for step in steps:
                ledger.lose(ledger.steps[self.step(step).id], message, agent_gone=agent_gone)

        self.store.change(decide)

    def retry(self, step: str) -> None:
        """Run the job of a step again, with the later jobs that were skipped, as the service does."""
        job = self.job(step[0])
        if not job.status.terminal:
            raise InvalidTransition("the job of the step run is not finished")
        skipped = [
            other.id
            for other in self.store.jobs.values()
            if other.stage_index > job.stage_index and other.status is RunStatus.SKIPPED
        ]
        job_ids = [job.id, *skipped]
        attempts = [_next_attempt(old, self.store.new_id()) for one in job_ids for old in self.store.current_steps(one)]

        def decide(ledger: Ledger) -> None:
            run = self.store.load_run(ledger)
            new = [replace(attempt) for attempt in attempts]
            ledger.reopen(run, [ledger.jobs[one] for one in job_ids], new, new[0].id)
            # The rows of new attempts are there before the ledger is written.
            self.store.superseded.update(old.id for one in job_ids for old in self.store.current_steps(one))
            self.store.steps.update((attempt.id, attempt) for attempt in attempts)

        self.store.change(decide)

    def add_step(self, job: str, shape: str = ".") -> None:
        """Add a step to a job that is not finished."""
        if self.job(job).status.terminal or self.run.stopped:
            raise InvalidTransition("job run already finished")
        self._add_step(self.job_ids[job], shape, queue=False)

    def add_job(self, shape: str = ".") -> str:
        """Add a job of one step to a run that is not finished; return its name."""
        if self.run.status.terminal or self.run.stopped:
            raise InvalidTransition("pipeline run already finished")
        stage_index = min(index for index, open_jobs in self.store.stages.items() if open_jobs)
        job = JobState(self.store.new_id(), self.run.id, stage_index, RunStatus.PENDING, 1, 0)
        name = ascii_lowercase[len(self.job_ids)]

        def decide(ledger: Ledger) -> None:
            self.store.load_run(ledger)
            self.store.jobs[job.id] = replace(job)
            self.job_ids[name] = job.id
            ledger.add_job(replace(job))
            self._store_added(ledger, self._new_step(job.id, 0, shape, StepStatus.PENDING), queue=True)

        self.store.change(decide)
        return name

    # How it is built

    def _add_step(self, job_id: UUID, shape: str, *, queue: bool) -> None:
        def decide(ledger: Ledger) -> None:
            self.store.load_run(ledger)
            step = self._new_step(job_id, ledger.jobs[job_id].total_steps, shape, StepStatus.PENDING)
            self._store_added(ledger, step, queue=queue)

        self.store.change(decide)

    def _store_added(self, ledger: Ledger, step: StepState, *, queue: bool) -> None:
        self.store.steps[step.id] = replace(step)
        ledger.add_step(step, queue=queue)

    def _insert_job(self, name: str, stage_index: int, shape: str) -> None:
        store = self.store
        job = JobState(store.new_id(), self.run.id, stage_index, RunStatus.PENDING, 1, len(shape))
        store.jobs[job.id] = job
        self.job_ids[name] = job.id
        pipeline_id = self.run.pipeline_id
        self._record(Event(Resource.JOB, pipeline_id, self.run.id, job.id, None, None, job.status, None, len(shape)))
        for index, letter in enumerate(shape):
            status = StepStatus.QUEUED if stage_index == 0 and index == 0 else StepStatus.PENDING
            step = self._new_step(job.id, index, letter, status)
            store.steps[step.id] = step
            self._record(Event(Resource.STEP, pipeline_id, self.run.id, job.id, step.id, None, status, None))
            if status is StepStatus.QUEUED:
                store.queue[step.id] = QueueRow(None, held=False)

    def _new_step(self, job_id: UUID, index: int, letter: str, status: StepStatus) -> StepState:
        assert letter in SHAPES, f"{letter!r} is no step: one of {SHAPES}"
        return StepState(
            id=self.store.new_id(),
            job_id=job_id,
            run_id=self.run.id,
            index=index,
            status=status,
            selector_id=2 if letter in "*!" else 1,
            own_selector=letter in "*!",
            continue_on_error=letter in "?!",
        )

    def _hold(self, *, held: bool) -> None:
        for step_id, row in self.store.queue.items():
            self.store.queue[step_id] = replace(row, held=held)

    def _record(self, event: Event) -> None:
        self.store.events.append(event)


def _next_attempt(old: StepState, new_id: UUID) -> StepState:
    return StepState(
        id=new_id,
        job_id=old.job_id,
        run_id=old.run_id,
        index=old.index,
        status=StepStatus.PENDING,
        selector_id=old.selector_id,
        attempt=old.attempt + 1,
        own_selector=old.own_selector,
        continue_on_error=old.continue_on_error,
    )


def _letter(status: StepStatus) -> str:
    return "x" if status is StepStatus.SKIPPED else status.value[0]


def finish_all(world: World, agents: Sequence[str]) -> int:
    """Let the agents take and finish everything until nothing more happens; return the number of steps they ended."""
    ended = 0
    while True:
        for step_id, row in [(step_id, row) for step_id, row in world.store.queue.items() if not row.held]:
            world.store.claim(step_id, row.agent_id or AGENTS[agents[ended % len(agents)]])
        leases = list(world.store.leases.values())
        if not leases:
            return ended
        for lease in leases:
            if world.store.leases.get(lease.id) is not lease:
                continue
            statuses = (StepStatus.RUNNING, StepStatus.SUCCESS)
            verdicts = world.store.take([StepReport(lease.agent_id, lease.step_run_id, status) for status in statuses])
            assert verdicts == [None, None], f"the report of a lease was refused: {verdicts}"
            ended += 1
