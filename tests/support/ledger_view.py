"""What the rows of one run in a store say, by the names that the notation gives to its jobs and steps."""

from __future__ import annotations

from uuid import UUID

from arcentra_server.domain.execution import JobState, Lease, RunState, StageState, StepState
from arcentra_server.domain.states import ApprovalState, StepStatus
from tests.support.ledger_store import ApprovalRow, LedgerStore, QueueRow

AGENTS = {"x": UUID(int=1), "y": UUID(int=2), "z": UUID(int=3)}
AGENT_NAMES = {identity: name for name, identity in AGENTS.items()}


class RunRows:
    """See the module. Steps and jobs are named by their last attempt."""

    def __init__(self, store: LedgerStore, run_id: UUID, job_ids: dict[str, UUID]) -> None:
        self.store = store
        self.run_id = run_id
        self.job_ids = job_ids

    @property
    def run(self) -> RunState:
        return self.store.rows.runs[self.run_id]

    @property
    def open_jobs(self) -> dict[int, int]:
        """Return how many jobs of each stage have not ended."""
        return {index: stage.open_jobs for index, stage in self.stages.items()}

    @property
    def stages(self) -> dict[int, StageState]:
        rows = self.store.rows.stages
        return {index: stage for (run_id, index), stage in rows.items() if run_id == self.run_id}

    @property
    def queue(self) -> dict[UUID, QueueRow]:
        steps = self.store.rows.steps
        return {one: row for one, row in self.store.rows.queue.items() if steps[one].run_id == self.run_id}

    @property
    def leases(self) -> list[Lease]:
        steps = self.store.rows.steps
        return [one for one in self.store.rows.leases.values() if steps[one.step_run_id].run_id == self.run_id]

    def job(self, name: str) -> JobState:
        return self.store.rows.jobs[self.job_ids[name]]

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
        return self.store.rows.queue.get(self.step(step).id)

    def states(self) -> str:
        """Return the first letters of the states of all last attempts, a word a job; `x` is SKIPPED."""
        return " ".join("".join(_letter(step.status) for step in self.steps(job)) for job in self.job_ids)

    def ends(self) -> str:
        """Return the first letters of the states of the jobs; `x` is SKIPPED, `-` has not ended, `p` is PARTIAL."""
        letters = {"SKIPPED": "x", "PARTIAL": "p"}
        states = (self.job(name).status for name in self.job_ids)
        return "".join(letters.get(one.value, one.value[0]) if one.terminal else "-" for one in states)

    def name(self, step_id: UUID) -> str:
        step = self.store.rows.steps[step_id]
        job = next(name for name, job_id in self.job_ids.items() if job_id == step.job_id)
        return f"{job}{step.index + 1}"

    def gates(self) -> list[str]:
        """Return the gates that somebody has to decide: `|1` before the second stage, `a` after that job."""
        names = {job_id: name for name, job_id in self.job_ids.items()}
        return [names[row.job_id] if row.job_id else f"|{row.stage_index}" for row in self.pending_gates()]

    def waits_for_key(self, job: str) -> bool:
        claim = self.store.rows.claims.get(self.job_ids[job])
        return claim is not None and claim.place is None

    def pending_gates(self) -> list[ApprovalRow]:
        """Return the gates that were reached and not decided."""
        rows = self.store.rows.approvals.values()
        return [row for row in rows if row.run_id == self.run_id and row.state is ApprovalState.PENDING]


def _letter(status: StepStatus) -> str:
    return "x" if status is StepStatus.SKIPPED else status.value[0]
