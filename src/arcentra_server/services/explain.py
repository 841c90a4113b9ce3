"""Why a step run waits: what has to happen first, its place in the queue, and what each agent makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from arcentra_server.db import explain, runs, step_runs
from arcentra_server.db.engine import Database, Tx
from arcentra_server.db.explain import QueuePlace
from arcentra_server.db.runs import JobRow, RunRow
from arcentra_server.db.step_runs import StepRow
from arcentra_server.domain.errors import NotFound
from arcentra_server.domain.execution import Waiting
from arcentra_server.domain.fleet import in_words
from arcentra_server.domain.selectors import Selector
from arcentra_server.domain.states import RunStatus, StepStatus
from arcentra_server.scheduling.explain import AgentView, Verdict, in_a_sentence, verdicts, wait_reason
from arcentra_server.scheduling.plan import QueuedStep
from arcentra_server.scheduling.reasons import WaitReason


@dataclass(frozen=True, slots=True)
class Blocking:
    """Something that has to happen before a step run is placed: its kind (as in the contract), and in words."""

    kind: str
    detail: str
    run_id: UUID | None = None
    job_run_id: UUID | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a step run waits, and since when. `rank` and `length` are 0 for one that is not in the queue.

    `reason`: why it is not placed; None for one that is not in the queue, or that an agent takes next.
    """

    step: StepRow
    summary: str
    since: datetime | None = None
    rank: int = 0
    length: int = 0
    priority: int = 0
    conditions: Sequence[str] = ()
    blocking: Sequence[Blocking] = field(default_factory=list)
    verdicts: Sequence[Verdict] = field(default_factory=list)
    reason: WaitReason | None = None


class ExplainService:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def explain(self, step_id: UUID) -> Explanation:
        """Explain a step run, as of one moment.

        Raises:
            NotFound: no such step run.
        """
        async with self._database.transaction(snapshot=True) as tx:
            step = await step_runs.get(tx, step_id)
            if step is None:
                raise NotFound(f"step run {str(step_id)!r} not found")
            if step.status not in (StepStatus.PENDING, StepStatus.QUEUED):
                return Explanation(step, f"it does not wait: it is {step.status.value}")
            place = await explain.place_of(tx, step_id)
            if place is not None:
                return await _in_queue(tx, step, place)
            if step.status is StepStatus.QUEUED:
                return Explanation(step, "it was given to an agent, which has not started it yet", step.created_at)
            run = await runs.get(tx, step.run_id)
            if run is None:
                raise NotFound(f"step run {str(step_id)!r} not found")
            blocking = list(_before_the_queue(step, run))
            summary = "; ".join(one.detail for one in blocking)
            return Explanation(step, summary, step.created_at, blocking=blocking)


async def _in_queue(tx: Tx, step: StepRow, place: QueuePlace) -> Explanation:
    agents, now = await explain.agents(tx), await explain.now(tx)
    selector = await explain.selector_of(tx, place.selector_id)
    found = verdicts(selector, place.bound_to, agents, now)
    queued = QueuedStep(step.id, place.selector_id, place.bound_to, place.held, place.ready_at.timestamp())
    reason = wait_reason(queued, selector, agents, now)
    blocking = []
    if place.held:
        blocking.append(Blocking("paused", "the run is paused", run_id=step.run_id))
    if place.delayed:
        until = f"it is placed again after {place.ready_at:%H:%M:%S} UTC"
        blocking.append(Blocking("retry_delay", until, until=place.ready_at))
    rank, length = 0, 0
    if not blocking:
        rank, length = await _rank(tx, step.id, place, selector, agents)
    summary = "; ".join(one.detail for one in blocking) or in_a_sentence(selector, place.bound_to, found)
    conditions = [in_words(term) for term in selector.terms]
    return Explanation(
        step, summary, place.queued_at, rank, length, place.priority, conditions, blocking, found, reason
    )


async def _rank(
    tx: Tx, step_id: UUID, place: QueuePlace, selector: Selector, agents: Sequence[AgentView]
) -> tuple[int, int]:
    if place.bound_to is not None:
        return await explain.rank_of_bound(tx, step_id, place.bound_to)
    # Those compete for an agent that it admits too.
    mine = [agent.labels for agent in agents if agent.labels.admit(selector)]
    rivals = {
        identity
        for identity, other in (await explain.queued_selectors(tx)).items()
        if any(labels.admit(other) for labels in mine)
    }
    return await explain.rank(tx, step_id, sorted({*rivals, place.selector_id}))


def _before_the_queue(step: StepRow, run: RunRow) -> Iterator[Blocking]:
    """Yield what has to happen before a pending step run is queued."""
    if run.status is RunStatus.PAUSED:
        yield Blocking("paused", "the run is paused", run_id=run.id)
    job = next(job for job in run.jobs if job.id == step.job_id)
    if job.waits_for is Waiting.NOTHING:
        before = [one.name for one in job.steps if one.step_index < step.step_index and not one.status.terminal]
        names = ", ".join(dict.fromkeys(before)) or "what comes before it"
        yield Blocking("previous_step", f"waits for {names} of its job", job_run_id=job.id)
        return
    yield from _what_the_job_waits_for(job, run)


def _what_the_job_waits_for(job: JobRow, run: RunRow) -> Iterator[Blocking]:
    match job.waits_for:
        case Waiting.STAGE:
            open_jobs = [one for one in run.jobs if one.stage_index < job.stage_index and not one.status.terminal]
            for one in open_jobs:
                detail = f"waits for job {one.name} of stage {one.stage}"
                yield Blocking("stage", detail, run_id=run.id, job_run_id=one.id)
            if not open_jobs:
                yield Blocking("stage", "the stages before it are not done", run_id=run.id)
        case Waiting.NEEDS:
            ids = {one.name: one.id for one in run.jobs}
            for name in job.open_needs:
                yield Blocking("needs", f"waits for job {name}", run_id=run.id, job_run_id=ids.get(name))
        case Waiting.APPROVAL:
            yield Blocking("approval", _of_gate(job, run), run_id=run.id)
        case Waiting.CONCURRENCY:
            held = f", held by {'; '.join(job.holders)}" if job.holders else ""
            yield Blocking("concurrency", f"waits for the key {job.concurrency}{held}", job_run_id=job.id)
        case Waiting.RETRY:
            yield Blocking("retry_delay", f"attempt {job.attempt} begins after a pause", job_run_id=job.id)


def _of_gate(job: JobRow, run: RunRow) -> str:
    for gate in run.gates:
        before_stage = gate.job_id is None and gate.stage_index == job.stage_index
        if before_stage or gate.job_id == job.id or gate.job_name in job.needs:
            what = f"before stage {gate.stage}" if before_stage else f"after job {gate.job_name}"
            return f"waits for the approval {what} ({gate.id})"
    return "waits for an approval"
