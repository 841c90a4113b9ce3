"""A second opinion on what runs must end as: from its definition and what came to it from outside, and nothing else.

It is written from the rules that users are told (`behaviour.md`, sections 2 and 3), top down: a run from its jobs, a job
from whether its turn came and from its steps, a step from what ended before it. It shares no code with the ledger and
keeps no counters. Of the rows it reads which jobs have ended, and holds each end against what it finds itself:
of every job, of every attempt that was repeated, and of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from uuid import UUID

from arcentra_server.domain.execution import CancelCause, JobState
from arcentra_server.domain.states import FailureReason, GateState, RunStatus, StepStatus
from tests.support.happenings import Happenings, JobFacts, StepFacts
from tests.support.ledger_store import LedgerStore
from tests.support.shapes import JobShape, StepShape

R, S = RunStatus, StepStatus
_WORST_FIRST = (R.CANCELLED, R.FAILED, R.TIMEOUT, R.PARTIAL, R.SUCCESS)
_BAD = (R.CANCELLED, R.FAILED, R.TIMEOUT)
_NOTHING = StepFacts()


class Turn(Enum):
    """What came of the turn of a job."""

    RUNS = "runs"
    SKIPPED = "skipped"
    WRONG = "its condition cannot be evaluated"


class Asked(Enum):
    """What a condition answers."""

    YES = "yes"
    NO = "no"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Judged:
    """How a job had its turn. `worst`: of all that came before it; `walled`: it stands behind a gate that was not passed.

    `walled` is also one that was skipped with its own gate and leaves it shut.
    """

    turn: Turn
    worst: RunStatus
    walled: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How one attempt of a job must have ended. `reason`: of what failed first."""

    steps: list[StepStatus]
    outcome: RunStatus
    reason: FailureReason | None
    moved: bool = False


@dataclass(slots=True)
class _Walk:
    """The ends of the steps of one attempt: (when, place, what it adds, why)."""

    facts: JobFacts
    ends: list[tuple[int, int, RunStatus, FailureReason | None]] = field(default_factory=list)
    expected: list[StepStatus] = field(default_factory=list)

    def seen(self, until: int) -> RunStatus:
        return worst(what for at, _, what, _ in self.ends if at <= until)


class Opinion:
    """See the module. `observe` after each change of the run."""

    def __init__(self, store: LedgerStore, run_id: UUID, happenings: Happenings) -> None:
        self._store = store
        self._run_id = run_id
        self._facts = happenings
        self._judged: dict[UUID, Judged] = {}
        self._retries: dict[UUID, int] = {}
        self._held: set[UUID] = set()
        self._opened: set[int] = set()
        self._run_held = False
        self._repeats = 0

    def observe(self) -> None:
        """Judge the jobs whose turn came, and hold what has ended against what it must have ended as."""
        new, self._repeats = self._store.rows.repeats[self._repeats :], len(self._store.rows.repeats)
        mine = [(job_id, old) for job_id, old in new if self._store.rows.jobs[job_id].run_id == self._run_id]
        if self._facts.opened_again:
            self._open_again(self._facts.opened_again)
        self._judge_all()
        for job_id, old in mine:
            if job_id in self._facts.opened_again:
                self._facts.opened_again.remove(job_id)
            else:
                self._hold_repeated(self._store.rows.jobs[job_id], old)
        for job in self._store.jobs_of(self._run_id):
            if job.status.terminal and job.id not in self._held:
                self._held.add(job.id)
                self._hold_job(job)
        self._hold_run()

    def _open_again(self, job_ids: Iterable[UUID]) -> None:
        self._run_held = False
        first = min(self._store.rows.jobs[job_id].stage_index for job_id in job_ids)
        asked_again = self._gated(first) and self._facts.stage_gates.get(first) is not GateState.APPROVED
        self._opened = {index for index in self._opened if index < first or (index == first and not asked_again)}
        for job_id in job_ids:
            self._judged.pop(job_id, None)
            self._retries.pop(job_id, None)
            self._held.discard(job_id)

    # Runs

    def _hold_run(self) -> None:
        run, jobs = self._store.rows.runs[self._run_id], self._store.jobs_of(self._run_id)
        assert run.status.terminal == all(job.status.terminal for job in jobs), f"the run is {run.status}"
        if not run.status.terminal or self._run_held:
            return
        self._run_held = True
        expected = self._end_of_run(jobs)
        assert run.status is expected, f"the run ended as {run.status}, it must be {expected}"

    def _end_of_run(self, jobs: Iterable[JobState]) -> RunStatus:
        if self._facts.stopped:
            return R.CANCELLED
        if self._facts.timed_out or self._refused(None):
            return R.FAILED
        outcome = worst(self._adds(job) for job in jobs)
        return R.SUCCESS if outcome is R.SKIPPED else outcome

    def _refused(self, before: int | None) -> bool:
        """Answer whether a gate was refused: before a stage, or after a job of a stage before it; None: anywhere."""
        stages = [index for index, decision in self._facts.stage_gates.items() if decision is GateState.REJECTED]
        jobs = [
            job.stage_index
            for job in self._store.jobs_of(self._run_id)
            if self._facts.jobs[job.id].gate is GateState.REJECTED
        ]
        if before is None:
            return bool(stages or jobs)
        return any(index <= before for index in stages) or any(index < before for index in jobs)

    def _adds(self, job: JobState) -> RunStatus:
        """Return what the end of a job is for its run and for what depends on it."""
        if job.status not in (R.FAILED, R.TIMEOUT):
            return job.status
        tolerated = self._shape(job.id).allow and self._facts.jobs[job.id].gate is not GateState.REJECTED
        return R.PARTIAL if tolerated else R.FAILED

    # Turns of jobs

    def _judge_all(self) -> None:
        jobs = self._store.jobs_of(self._run_id)
        for index in sorted({job.stage_index for job in jobs}):
            waiting = [job for job in jobs if job.stage_index == index and job.id not in self._held]
            if index not in self._opened:
                self._enter(index, waiting)
            for job in waiting if index in self._opened else ():
                if job.id not in self._judged:
                    self._take(job.id, self._judge(job))

    def _enter(self, index: int, waiting: Sequence[JobState]) -> None:
        """Let a stage have its turn, if it has come: it is opened, or skipped, or waits at its gate."""
        earlier = [job for job in self._store.jobs_of(self._run_id) if job.stage_index < index]
        if not all(job.status.terminal for job in earlier):
            return
        failed = worst(map(self._adds, earlier)) in _BAD
        hopeless = failed and not any(self._shape(job.id).when for job in waiting)
        shut = self._refused(index) or any(map(self._shuts, earlier))
        if waiting and (self._facts.ending or shut or hopeless):
            for job in waiting:  # nobody asked what came before it
                self._take(job.id, Judged(Turn.SKIPPED, R.SKIPPED, walled=self._shape(job.id).gate))
        elif not waiting or not self._gated(index) or self._facts.stage_gates.get(index) is GateState.APPROVED:
            self._opened.add(index)

    def _take(self, job_id: UUID, judged: Judged | None) -> None:
        if judged is None:
            return
        self._judged[job_id] = judged
        self._retries.setdefault(job_id, self._most_retries(job_id))
        if judged.turn is not Turn.RUNS or not self._shape(job_id).key:
            self._facts.jobs[job_id].begun = self._facts.now

    def _judge(self, job: JobState) -> Judged | None:
        """Return how a job of a stage that is open has its turn; None: its turn has not come."""
        shape = self._shape(job.id)
        if self._facts.ending:
            return Judged(Turn.SKIPPED, R.SKIPPED, walled=shape.gate)
        needs = [self._store.rows.jobs[need] for need in self._store.rows.needs.get(job.id, ())]
        if not all(need.status.terminal for need in needs):
            return None
        earlier = (other for other in self._store.jobs_of(self._run_id) if other.stage_index < job.stage_index)
        known = [self._judged.get(need.id) or Judged(Turn.RUNS, R.SKIPPED) for need in needs]
        total = worst([*map(self._adds, earlier), *map(self._adds, needs), *(judged.worst for judged in known)])
        walled = any(map(self._shuts, needs)) or any(judged.walled for judged in known)
        well = total not in _BAD and all(need.status is not R.SKIPPED for need in needs)
        answer = Asked.NO if walled else ask(shape.when, well=well, worst_before=total)
        turn = {Asked.YES: Turn.RUNS, Asked.NO: Turn.SKIPPED, Asked.WRONG: Turn.WRONG}[answer]
        return Judged(turn, total, walled)

    def _shuts(self, job: JobState) -> bool:
        """Answer whether the gate behind a job that has ended lets nothing through: nobody approved what there was."""
        gate, judged = self._facts.jobs[job.id].gate, self._judged.get(job.id)
        if not self._shape(job.id).gate or gate is GateState.APPROVED:
            return False
        return job.status is not R.SKIPPED or judged is None or judged.walled or judged.worst in _BAD

    def _gated(self, index: int) -> bool:
        return self._store.rows.stages[self._run_id, index].gate is not GateState.NONE

    # Ends of jobs

    def _hold_job(self, job: JobState) -> None:
        ids = [step.id for step in self._store.current_steps(job.id)]
        ended = self._attempt(job, ids)
        self._hold_steps(ids, ended)
        expected = self._end_of_job(job, ended)
        assert job.status is expected, f"{self._name(job)} ended as {job.status}, it must be {expected}"
        assert not self._may_repeat(job, ended), f"{self._name(job)} must run again"

    def _end_of_job(self, job: JobState, ended: Ended) -> RunStatus:
        facts, judged = self._facts.jobs[job.id], self._judged.get(job.id)
        assert not ended.moved, f"{self._name(job)} must begin again: the branch moved"
        if facts.cancelled_at_gate:
            return R.CANCELLED
        runs = judged is not None and judged.turn is Turn.RUNS
        tolerated = self._shape(job.id).allow and ended.outcome in (R.FAILED, R.TIMEOUT) and not self._facts.ending
        asked = tolerated or (runs and ended.outcome in (R.SUCCESS, R.PARTIAL))
        if not self._shape(job.id).gate or not asked:
            return ended.outcome
        assert facts.gate is not GateState.NONE, f"{self._name(job)} ended without a decision at its gate"
        return ended.outcome if facts.gate is GateState.APPROVED else R.FAILED

    def _hold_repeated(self, job: JobState, ids: Sequence[UUID]) -> None:
        """Hold an attempt that another one took the place of without being asked."""
        ended = self._attempt(job, ids)
        self._hold_steps(ids, ended)
        if not ended.moved:
            assert self._may_repeat(job, ended), f"{self._name(job)} runs again after {ended}"
            self._retries[job.id] -= 1
        self._facts.jobs[job.id] = JobFacts(begun=self._facts.now)

    def _may_repeat(self, job: JobState, ended: Ended) -> bool:
        retry, judged = self._shape(job.id).retry, self._judged.get(job.id)
        if ended.outcome not in (R.FAILED, R.TIMEOUT) or retry is None or self._facts.ending:
            return False
        if judged is None or judged.turn is not Turn.RUNS or self._retries[job.id] == 0:
            return False
        return not retry.on or "failed" in retry.on or ended.reason in retry.on

    def _most_retries(self, job_id: UUID) -> int:
        retry = self._shape(job_id).retry
        return retry.max_attempts - 1 if retry else 0

    def _hold_steps(self, ids: Sequence[UUID], ended: Ended) -> None:
        found = [self._store.rows.steps[step_id].status for step_id in ids]
        assert found == ended.steps, f"steps ended as {found}, they must be {ended.steps}"

    # Steps

    def _attempt(self, job: JobState, ids: Sequence[UUID]) -> Ended:
        """Return how an attempt of a job must have ended."""
        facts, judged = self._facts.jobs[job.id], self._judged.get(job.id)
        shapes = self._store.rows.step_shapes
        walk = _Walk(facts)
        for place, step_id in enumerate(ids):
            came = self._facts.steps.get(step_id, _NOTHING)
            if came.ended is not None and not came.moved:
                walk.ends.append((came.ended, place, adds(shapes[step_id], came.status), came.reason))
        if judged is None or judged.turn is not Turn.RUNS or facts.begun is None:
            self._walk_without_turn(job, ids, walk, judged)
        else:
            self._walk_through(job, ids, walk, facts.begun)
        return self._result(walk, moved=any(self._facts.steps.get(one, _NOTHING).moved for one in ids), judged=judged)

    @staticmethod
    def _result(walk: _Walk, *, moved: bool, judged: Judged | None) -> Ended:
        outcome = worst(what for _, _, what, _ in walk.ends)
        reason = next((why for _, _, what, why in sorted(walk.ends, key=lambda end: end[:2]) if what in _BAD), None)
        if judged is not None and judged.turn is Turn.WRONG:
            outcome, reason = worst([outcome, R.FAILED]), reason or FailureReason.VALIDATION
        if walk.facts.cause is CancelCause.TIMEOUT:
            outcome, reason = worst([outcome, R.TIMEOUT]), FailureReason.TIMEOUT
        return Ended(walk.expected, outcome, reason, moved)

    def _walk_without_turn(self, job: JobState, ids: Sequence[UUID], walk: _Walk, judged: Judged | None) -> None:
        """The job was never begun: what was not ended from outside is skipped, whatever its condition."""
        wrong = judged is not None and judged.turn is Turn.WRONG
        cancelled = worst(what for _, _, what, _ in walk.ends) in _BAD
        for place, step_id in enumerate(ids):
            came = self._facts.steps.get(step_id, _NOTHING)
            shape = self._store.rows.step_shapes[step_id]
            assert not came.turn, f"a step of {self._name(job)} had its turn before its job had"
            if came.ended is not None:
                walk.expected.append(came.status)
            elif wrong and not (cancelled and not shape.when):
                wrong = False
                walk.ends.append((self._facts.now, place, adds(shape, S.FAILED), FailureReason.VALIDATION))
                walk.expected.append(S.FAILED)
            else:
                over = judged is not None and judged.turn is not Turn.RUNS
                closed = walk.facts.closed is not None
                assert over or closed or cancelled, f"{self._name(job)} ended before its turn"
                walk.expected.append(S.SKIPPED)

    def _walk_through(self, job: JobState, ids: Sequence[UUID], walk: _Walk, begun: int) -> None:
        now, moved = begun, False
        for place, step_id in enumerate(ids):
            shape, came = self._store.rows.step_shapes[step_id], self._facts.steps.get(step_id, _NOTHING)
            if moved:
                walk.expected.append(S.SKIPPED if came.ended is None else came.status)
                continue
            what = self._turn_of(shape, walk, now)
            if came.ended is not None:
                assert not came.turn or what is None, f"step {place + 1} of {self._name(job)} had a turn, not {what}"
                assert not came.turn or not self._overtaken(walk, shape, place, now, came.started or came.ended)
                walk.expected.append(came.status)
                now, moved = max(now, came.ended), came.moved
                continue
            assert came.started is None, f"{self._name(job)} ended, and its step {place + 1} runs"
            if what is None:
                overtaken = self._overtaken(walk, shape, place, now, self._facts.now + 1)
                assert overtaken, f"step {place + 1} of {self._name(job)} must have had its turn"
                what, now = (S.SKIPPED, None), overtaken
            walk.expected.append(what[0])
            if what[0] is not S.SKIPPED:
                walk.ends.append((now, place, adds(shape, what[0]), what[1]))

    @staticmethod
    def _overtaken(walk: _Walk, shape: StepShape, place: int, since: int, until: int) -> int | None:
        """Return when a step that waited for an agent was skipped, as one behind it was cancelled."""
        if shape.when:
            return None
        times = [at for at, other, what, _ in walk.ends if other > place and since < at < until and what in _BAD]
        return min(times, default=None)

    @staticmethod
    def _turn_of(shape: StepShape, walk: _Walk, now: int) -> tuple[StepStatus, FailureReason | None] | None:
        """Return how a step ends at its turn without being run; None: it is to be run."""
        facts, before = walk.facts, walk.seen(now)
        gone, given_up = now in facts.gone, facts.given_up is not None and now >= facts.given_up
        if facts.closed is not None and now >= facts.closed:
            return S.SKIPPED, None
        if before in _BAD and (not shape.when or gone or given_up):
            return S.SKIPPED, None
        if given_up:
            return S.CANCELLED, FailureReason.INTERNAL
        answer = ask(shape.when, well=before not in _BAD, worst_before=before)
        if answer is Asked.WRONG:
            return S.FAILED, FailureReason.VALIDATION
        if answer is Asked.NO:
            return S.SKIPPED, None
        return (S.FAILED, FailureReason.AGENT_LOST) if gone and not shape.own else None

    # Names

    def _shape(self, job_id: UUID) -> JobShape:
        return self._store.rows.shapes[job_id]

    def _name(self, job: JobState) -> str:
        return f"job {self._shape(job.id).name}"


def worst(outcomes: Iterable[RunStatus]) -> RunStatus:
    """Return the worst of ends; SKIPPED when nothing ended."""
    found = set(outcomes)
    return next((outcome for outcome in _WORST_FIRST if outcome in found), R.SKIPPED)


def adds(shape: StepShape, status: StepStatus) -> RunStatus:
    """Return what the end of a step is for its job."""
    if shape.tolerated and status in (S.FAILED, S.TIMEOUT):
        return R.PARTIAL
    return R(status.value)


def ask(condition: str, *, well: bool, worst_before: RunStatus) -> Asked:
    """Answer a condition; what does not say how things have to stand is asked only when all went well."""
    cancelled = worst_before is R.CANCELLED
    failed = worst_before in (R.FAILED, R.TIMEOUT)
    if condition == "E":
        return Asked.WRONG
    if condition in "afc" and condition:
        return Asked.YES if {"a": True, "f": failed, "c": cancelled}[condition] else Asked.NO
    if not well or condition == "n":
        return Asked.NO
    return Asked.WRONG if condition == "e" else Asked.YES
