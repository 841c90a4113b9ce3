"""One run in a store, built from the notation of `tests/support/shapes.py`, with verbs for all that can happen to it.

Each verb is one change, after which everything is checked that must hold at any time: what `ledger_checks.py` counts
afresh, and what `independent.py` finds the ends must be. Several runs may share a store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from string import ascii_lowercase
from typing import TypeVar
from uuid import UUID

from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.execution import CancelCause, JobState, RunState, StepReport, StepState
from arcentra_server.domain.gated import is_behind_a_gate
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.retries import open_needs, to_retry, with_dependants
from arcentra_server.domain.states import ApprovalState, FailureReason, GateState, StepStatus
from tests.support.happenings import Happenings
from tests.support.independent import Opinion
from tests.support.ledger_checks import KeyChecks, RunChecks
from tests.support.ledger_rows import insert_job, insert_run, insert_step
from tests.support.ledger_store import LedgerStore
from tests.support.ledger_turns import load_stage, settle
from tests.support.ledger_view import AGENTS, RunRows
from tests.support.shapes import JobShape, parse, step_of

Answer = TypeVar("Answer")


def new_store() -> LedgerStore:
    """Return a store for several runs."""
    return LedgerStore(settle)


class World(RunRows):
    """See the module. Steps and jobs are named by their last attempt."""

    def __init__(self, shape: str, store: LedgerStore | None = None) -> None:
        store = store or new_store()
        run_id = UUID(int=100 + len(store.rows.runs))
        super().__init__(store, run_id, insert_run(store, run_id, parse(shape)))
        self.happenings = Happenings()
        self.sound = False
        self._added: set[UUID] = set()
        self._checks = RunChecks(self.store, self.run_id)
        self._keys = KeyChecks(self.store)
        self._opinion = Opinion(self.store, self.run_id, self.happenings)
        self.check()

    def check(self) -> None:
        """Hold what must hold at any time. `sound`: it did, the last time."""
        self.sound = False
        self._checks.check()
        self._keys.check()
        self._opinion.observe()
        self.sound = True

    # What agents do

    def claim(self, agent: str, *steps: str) -> None:
        for step in steps:
            self.claim_step(self.step(step).id, AGENTS[agent])

    def claim_step(self, step_id: UUID, agent_id: UUID) -> None:
        self.store.claim(step_id, agent_id)
        self.check()

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
        commit: str = "",
    ) -> None:
        """Report states of a step, in one batch; raise the first refusal."""
        more = {"commit": commit} if commit else {}
        reports = [
            StepReport(
                AGENTS[agent],
                self.step(step).id,
                status,
                exit_code,
                message,
                reason,
                attempt=attempt,
                lease_token=token,
                outputs=more,
            )
            for status in statuses
        ]
        for verdict in self.take(reports):
            if verdict is not None:
                raise verdict

    def take(self, reports: Sequence[StepReport]) -> Sequence[Exception | None]:
        """Report a batch; return why each was refused."""
        verdicts = self.store.take(reports)
        for report, verdict in zip(reports, verdicts, strict=True):
            if verdict is None:
                step = self.store.rows.steps[report.step_id]
                source = self.store.rows.step_shapes[step.id].source
                pin = self.store.rows.shapes[step.job_id].source if source else ""
                self.happenings.reported(report, pin, told=step.told)
        self.check()
        return verdicts

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

    def fail_job(self, job: str, message: str = "") -> None:
        """The agent that has a job gives it up."""
        steps = self.steps(job)
        self._change(
            lambda ledger: ledger.fail_job(self._job(ledger, job), message), lambda: self.happenings.given_up(steps)
        )

    # What users and time do

    def cancel_step(self, step: str, reason: str = "", cause: CancelCause = CancelCause.REQUEST) -> None:
        self.cancel(self.step(step).id, reason, cause)

    def cancel(self, step_id: UUID, reason: str = "", cause: CancelCause = CancelCause.REQUEST) -> None:
        before = self.store.rows.steps[step_id]
        self._change_step(
            step_id,
            lambda ledger, step: ledger.cancel_step(step, reason, cause),
            lambda: self.happenings.step_cancelled(before, cause),
        )

    def cancel_job(self, job: str, reason: str = "", cause: CancelCause = CancelCause.REQUEST) -> None:
        before, steps = self.job(job), self.steps(job)
        self._change(
            lambda ledger: ledger.cancel_job(self._job(ledger, job), reason, cause),
            lambda: self.happenings.job_cancelled(before, steps, cause),
        )

    def stop(self, reason: str = "") -> None:
        before = self._all_jobs()
        self._change(
            lambda ledger: ledger.stop_run(self._load(ledger), reason),
            lambda: self.happenings.run_ended(before, CancelCause.REQUEST),
        )

    def time_out(self, reason: str = "") -> None:
        """The time of the run is over."""
        before = self._all_jobs()
        self._change(
            lambda ledger: ledger.time_out_run(self._load(ledger), reason),
            lambda: self.happenings.run_ended(before, CancelCause.TIMEOUT),
        )

    def pause(self, reason: str = "", actor: str = "") -> None:
        self.store.change(lambda ledger: ledger.pause(self._load(ledger), reason, actor))
        self._hold(held=True)

    def resume(self, reason: str = "", actor: str = "") -> None:
        self.store.change(lambda ledger: ledger.resume(self._load(ledger), reason, actor))
        self._hold(held=False)

    def lose(self, *steps: str, message: str = "", agent_gone: bool = True) -> None:
        """Lose leases: their agents are gone, or did not start the steps in time."""
        self.lose_steps([self.step(step).id for step in steps], message, agent_gone=agent_gone)

    def lose_steps(self, step_ids: Sequence[UUID], message: str = "", *, agent_gone: bool = True) -> None:
        rows = self.store.rows
        leases = [lease for lease in rows.leases.values() if lease.step_run_id in step_ids]
        steps = [(rows.steps[lease.step_run_id], lease.agent_id) for lease in leases]
        before = [(step, agent, rows.jobs[step.job_id].agent_id) for step, agent in steps]

        def decide(ledger: Ledger) -> None:
            self.store.load_steps(ledger, step_ids)
            for step_id in step_ids:
                ledger.lose(ledger.steps[step_id], message, agent_gone=agent_gone)

        self._change(decide, lambda: self.happenings.lost(before, gone=agent_gone))

    def abandon(self, step_id: UUID) -> None:
        """Give up what waits for an agent that is gone with the workspace."""
        before = self.store.rows.steps[step_id]
        self._change_step(
            step_id,
            lambda ledger, step: ledger.abandon(step, "gone"),
            lambda: self.happenings.abandoned(before),
        )

    def fail_waiting(self, step_id: UUID) -> None:
        """What is queued cannot be sent, as a secret of it is gone."""
        before = self.store.rows.steps[step_id]
        self._change_step(
            step_id,
            lambda ledger, step: ledger.fail_waiting(step, "secret is not set", FailureReason.VALIDATION),
            lambda: self.happenings.unsendable(before),
        )

    def end_cancelled(self, step_id: UUID) -> None:
        """The agent did not end what it was asked to end."""
        before = self.store.rows.steps[step_id]
        self._change_step(
            step_id,
            lambda ledger, step: ledger.end_cancelled(step),
            lambda: self.happenings.unanswered(before),
        )

    def time_passes(self) -> None:
        """What was delayed may be claimed now."""
        for step_id, row in self.queue.items():
            self.store.rows.queue[step_id] = replace(row, delay=0.0)

    # Gates and keys

    def decide(self, gate: str, *, approved: bool) -> None:
        """Decide a gate by its name, as `gates` returns it."""
        row = next(row for name, row in zip(self.gates(), self.pending_gates(), strict=True) if name == gate)
        index = row.stage_index

        def act(ledger: Ledger) -> None:
            run = self._load(ledger)
            state = ApprovalState.APPROVED if approved else ApprovalState.REJECTED
            self.store.rows.approvals[row.id] = replace(row, state=state)
            if row.job_id is not None:
                ledger.pass_job_gate(ledger.jobs[row.job_id], approved=approved)
            elif index is not None:
                jobs, upstream = load_stage(self.store, ledger, run.id, index)
                ledger.pass_stage_gate(run, ledger.stages[run.id, index], jobs, upstream, approved=approved)

        def note() -> None:
            if row.job_id is not None:
                self.happenings.job_decided(row.job_id, approved=approved)
            elif index is not None:
                self.happenings.stage_decided(index, approved=approved)

        self._change(act, note)

    def approve(self, *gates: str) -> None:
        for gate in gates:
            self.decide(gate, approved=True)

    def refuse(self, *gates: str) -> None:
        for gate in gates:
            self.decide(gate, approved=False)

    def give_key(self, job: str) -> bool:
        """Give a job the key that it waits for, if it is its turn."""

        def act(ledger: Ledger) -> bool:
            self.store.lock_run(ledger, self.run_id)
            given = self.store.give_key(self.job_ids[job])
            if given:
                self.store.load_jobs(ledger, [self.job_ids[job]])
                ledger.admit_holder(ledger.jobs[self.job_ids[job]])
            return given

        given = self.store.change(act)
        if given:
            self.happenings.key_given(self.job_ids[job])
        self.check()
        return given

    # Attempts that somebody asks for

    def retry(self, step: str) -> None:
        """Run the job of a step again, with the jobs that were skipped because of it, as the service does."""
        if not self.job(step[0]).status.terminal:
            raise InvalidTransition("the job of the step run is not finished")
        refused = self._refused_stages()
        self._reopen(
            lambda ledger: with_dependants(
                [self._job(ledger, step[0])], self._jobs(ledger), self._needs(), refused_stages=refused
            )
        )

    def retry_run(self, *, everything: bool) -> None:
        """Run again what failed and what was skipped because of it, or everything."""
        if not self.run.status.terminal:
            raise InvalidTransition("the run has not ended")
        refused = self._refused_stages()
        self._reopen(
            lambda ledger: to_retry(self._jobs(ledger), self._needs(), refused_stages=refused, everything=everything)
        )

    def _refused_stages(self) -> list[int]:
        return [index for index, stage in self.stages.items() if stage.gate is GateState.REJECTED]

    def _reopen(self, choose: Callable[[Ledger], list[JobState]]) -> None:
        def decide(ledger: Ledger) -> list[JobState]:
            run = self._load(ledger)
            jobs = choose(ledger)
            if not jobs:
                raise InvalidTransition("every job of the run ended well")
            attempts = self.store.copy_attempts([job.id for job in jobs])
            ledger.reopen(run, jobs, attempts, open_needs(jobs, self._jobs(ledger), self._needs()))
            return jobs

        opened = self.store.change(decide)
        for job in opened:
            if job.id in self._added:
                self.store.rows.shapes[job.id] = replace(self.store.rows.shapes[job.id], when="")
        self.happenings.reopened(opened)
        self.check()

    # What is added

    def add_step(self, job: str, shape: str = ".", *, gated: bool = False) -> None:
        """Add a step to a job that is not finished; `gated`: also behind a gate, which the service refuses."""
        if self.job(job).status.terminal or self.run.ending:
            raise InvalidTransition("job run already finished")

        def decide(ledger: Ledger) -> None:
            self._check_gates(self._job(ledger, job), ledger, gated=gated)
            ledger.add_step(insert_step(self.store, self.job(job), len(self.steps(job)), step_of(shape)))

        self._change(decide)

    def add_job(self, shape: str = ".", *, gated: bool = False) -> str:
        """Add a job of one step to a run that is not finished; return its name. `gated`: as of a step."""
        if self.run.status.terminal or self.run.ending:
            raise InvalidTransition("pipeline run already finished")
        index = min(index for index, open_jobs in self.open_jobs.items() if open_jobs)
        # What is added where jobs have their turn already runs whatever failed before.
        when = "a" if self.stages[index].opened else ""
        name = ascii_lowercase[len(self.job_ids)]

        def decide(ledger: Ledger) -> UUID:
            self._load(ledger)
            job = insert_job(self.store, self.run_id, index, JobShape(name, (), when=when))
            job = replace(job, condition="")
            self.store.rows.jobs[job.id] = replace(job)
            ledger.add_job(job)
            self._check_gates(job, ledger, gated=gated)
            ledger.add_step(insert_step(self.store, job, 0, step_of(shape)))
            ledger.begin_added(job)
            return job.id

        job_id = self.store.change(decide)
        self.job_ids[name] = job_id
        self._added.add(job_id)
        self.check()
        return name

    def _check_gates(self, job: JobState, ledger: Ledger, *, gated: bool) -> None:
        if not gated and is_behind_a_gate(job, ledger.jobs, ledger.stages.values(), self.store.rows.needs):
            raise InvalidTransition("the job stands behind an approval")

    # How it is done

    def _change(self, action: Callable[[Ledger], Answer], note: Callable[[], None] = lambda: None) -> Answer:
        answer = self.store.change(action)
        note()
        self.check()
        return answer

    def _change_step(
        self, step_id: UUID, action: Callable[[Ledger, StepState], None], note: Callable[[], None]
    ) -> None:
        def decide(ledger: Ledger) -> None:
            self.store.load_steps(ledger, [step_id])
            action(ledger, ledger.steps[step_id])

        self.store.change(decide)
        note()
        self.check()

    def _load(self, ledger: Ledger) -> RunState:
        return ledger.runs.get(self.run_id) or self.store.load_run(ledger, self.run_id)

    def _job(self, ledger: Ledger, name: str) -> JobState:
        self._load(ledger)
        return ledger.jobs[self.job_ids[name]]

    def _jobs(self, ledger: Ledger) -> list[JobState]:
        return [ledger.jobs[job.id] for job in self.store.jobs_of(self.run_id)]

    def _needs(self) -> dict[UUID, tuple[UUID, ...]]:
        return self.store.rows.needs

    def _all_jobs(self) -> list[tuple[JobState, list[StepState]]]:
        return [(job, self.store.current_steps(job.id)) for job in self.store.jobs_of(self.run_id)]

    def _hold(self, *, held: bool) -> None:
        for step_id, row in self.queue.items():
            self.store.rows.queue[step_id] = replace(row, held=held)
        self.check()


def finish_all(world: World, agents: Sequence[str]) -> int:
    """Let agents take and finish everything, gates be approved and keys be given, until nothing more happens.

    Return the number of steps that were ended.
    """
    ended = 0
    while True:
        world.time_passes()
        moved = [world.give_key(name) for name in world.job_ids if world.waits_for_key(name)]
        gates = world.gates()
        world.approve(*gates)
        for step_id, row in [(step_id, row) for step_id, row in world.queue.items() if not row.held]:
            world.claim_step(step_id, row.agent_id or AGENTS[agents[ended % len(agents)]])
        leases = world.leases
        if not leases and not gates and not any(moved):
            return ended
        for lease in leases:
            if world.store.rows.leases.get(lease.id) is lease:
                statuses = (StepStatus.RUNNING, StepStatus.SUCCESS)
                reports = [StepReport(lease.agent_id, lease.step_run_id, status) for status in statuses]
                verdicts = world.take(reports)
                assert list(verdicts) == [None, None], f"the report of a lease was refused: {verdicts}"
                ended += 1
