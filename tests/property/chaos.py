"""What may happen to a run, one thing at a time, chosen by whoever asks: Hypothesis, or dice.

Each is one change, or what an agent does in one go; a refusal is an answer, and must change nothing. `World` checks the
rows after each, and what has ended against a second evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar
from uuid import UUID

from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.execution import CancelCause, Lease, StepReport
from arcentra_server.domain.states import FailureReason, GateState, RunStatus, StepStatus
from tests.support.ledger_store import Crash, LedgerStore
from tests.support.ledger_view import AGENTS
from tests.support.ledger_world import World, finish_all
from tests.support.shapes import STEPS

Chosen = TypeVar("Chosen")

# How often each thing happens beside the work of agents, where it may happen at all.
OFTEN = {
    "lose": 2,
    "trouble": 2,
    "cancel_step": 2,
    "cancel_job": 1,
    "end_run": 1,
    "pause_or_resume": 2,
    "retry": 2,
    "add": 1,
    "crash": 1,
}
_WORK = 20
_MOST_RETRIES = 6
_MOST_ADDED = 4
_MOSTLY = (True, True, False)
_CAUSES = (CancelCause.REQUEST, CancelCause.REQUEST, CancelCause.TIMEOUT)
_DOES = ("runs", "runs", "starts", "starts", "ends", "ends", "claims", "babbles")
_ENDS = (StepStatus.SUCCESS, StepStatus.SUCCESS, StepStatus.FAILED)
_REPORTED = (*[StepStatus.SUCCESS] * 4, StepStatus.FAILED, StepStatus.TIMEOUT, StepStatus.CANCELLED, StepStatus.RUNNING)
_REASONS = (None, None, FailureReason.OOM, FailureReason.PLUGIN_MISSING)
_COMMITS = ("c1", "c1", "c2")


class Choose(Protocol):
    """Choose one of some things, and tell of what kind it is."""

    def __call__(self, options: Sequence[Chosen], what: str, /) -> Chosen: ...


class Chaos:
    """What may happen to one run. `moods`: what of `OFTEN` happens."""

    def __init__(self, world: World, choose: Choose, moods: Collection[str]) -> None:
        self.world = world
        self._choose = choose
        self._moods = sorted(moods)
        self._retried = 0
        self._added = 0
        self._acts: dict[str, Callable[[], None]] = {
            "lose": self._lose,
            "trouble": self._trouble,
            "cancel_step": self._cancel_step,
            "cancel_job": self._cancel_job,
            "end_run": self._end_run,
            "pause_or_resume": self._pause_or_resume,
            "retry": self._retry,
            "add": self._add,
            "crash": self._crash,
            "agent": self._agent,
            "decide": self._decide,
            "time_passes": self._time_passes,
            "give_key": self._give_key,
        }

    @property
    def over(self) -> bool:
        """Whether nothing more can happen."""
        return not self._possible()

    def happens(self) -> None:
        """Let something happen: mostly, agents go on with the work."""
        names = [name for name, weight in self._possible().items() for _ in range(weight)]
        if names:
            self._acts[self._choose(names, "what")]()

    def _possible(self) -> Mapping[str, int]:
        """Return what can happen now, and how often it does."""
        world, ended = self.world, self.world.run.status.terminal
        able = {
            "lose": bool(world.leases),
            "trouble": bool(self._troubles()),
            "cancel_step": not ended,
            "cancel_job": not ended,
            "end_run": not ended,
            "pause_or_resume": not ended and not world.run.ending,
            "retry": self._retried < _MOST_RETRIES and bool(self._jobs(ended=True)),
            "add": not ended and not world.run.ending and self._added < _MOST_ADDED,
            "crash": bool(self._workable() or world.gates()),
        }
        weights = {name: OFTEN[name] for name in self._moods if able[name]}
        weights |= {"pause_or_resume": _WORK} if world.run.paused else {}
        weights |= {"retry": _WORK} if ended and able["retry"] else {}
        weights |= {"agent": _WORK} if self._workable() else {}
        weights |= {"decide": _WORK} if world.gates() else {}
        weights |= {"time_passes": _WORK} if any(row.delay for row in world.queue.values()) else {}
        weights |= {"give_key": _WORK} if self._wanting() else {}
        return weights

    # Agents

    def _agent(self) -> None:
        agent, does = self._choose(sorted(AGENTS), "agent"), self._choose(_DOES, "does")
        if does == "babbles":
            self._babble(agent)
        elif does == "ends" and self.world.leases:
            self._report()
        else:
            self._work(agent, does)

    def _work(self, agent: str, does: str) -> None:
        """Take a step and do what agents do with it: leave it there, start it, or run it to its end."""
        step_id = self._choose_step(self._workable())
        if step_id in self.world.queue:
            self.world.claim_step(step_id, self.world.queue[step_id].agent_id or AGENTS[agent])
        lease = self.world.store.lease_of(step_id)
        assert lease is not None
        statuses = [] if does == "claims" else [StepStatus.RUNNING]
        if does == "runs":
            statuses.append(self._choose(_ENDS, "status"))
        outputs = self._outputs(step_id)
        reports = [StepReport(lease.agent_id, step_id, status, outputs=outputs) for status in statuses]
        assert self.world.take(reports) == [None] * len(reports)

    def _report(self) -> None:
        """The agent that has a lease says something, with or without its token."""
        lease = self._choose_lease()
        attempt = self._choose((0, self.world.store.rows.steps[lease.step_run_id].attempt), "attempt")
        self.world.take(
            [
                StepReport(
                    lease.agent_id,
                    lease.step_run_id,
                    self._choose(_REPORTED, "status"),
                    failure_reason=self._choose(_REASONS, "reason"),
                    outputs=self._outputs(lease.step_run_id),
                    attempt=attempt,
                    lease_token=LedgerStore.token(lease.id) if attempt else "",
                )
            ]
        )

    def _babble(self, agent: str) -> None:
        """Any agent says anything of any step, also of old attempts. A refusal leaves every row as it was."""
        store = self.world.store
        mine = [step.id for step in store.rows.steps.values() if step.run_id == self.world.run_id]
        step_id = self._choose_step(mine)
        lease = store.lease_of(step_id)
        entitled = lease is not None and lease.agent_id == AGENTS[agent]
        before = store.rows.copy()
        status, attempt = self._choose(list(StepStatus), "status"), self._choose((0, 1, 2, 3), "attempt")
        [verdict] = self.world.take([StepReport(AGENTS[agent], step_id, status, attempt=attempt)])
        if verdict is not None or not entitled:
            assert store.rows == before

    def _outputs(self, step_id: UUID) -> dict[str, str]:
        source = self.world.store.rows.step_shapes[step_id].source
        return {"commit": self._choose(_COMMITS, "commit")} if source else {}

    # What goes wrong

    def _lose(self) -> None:
        """An agent is gone with all that it has, or did not start one of its steps in time."""
        lease, gone = self._choose_lease(), self._choose(_MOSTLY, "gone")
        leases = [one for one in self.world.leases if one is lease or (gone and one.agent_id == lease.agent_id)]
        lost = [one.step_run_id for one in leases]
        if not gone:
            lost = [one for one in lost if self.world.store.rows.steps[one].status is StepStatus.QUEUED]
        self.world.lose_steps(lost, "lost", agent_gone=gone)
        if gone:
            assert all(one.agent_id != lease.agent_id for one in self.world.leases), "leased to an agent that is gone"

    def _trouble(self) -> None:
        """An agent gives its job up, does not come back, or does not end what it was asked to end; a secret is gone."""
        troubles = self._troubles()
        act, chosen = troubles[self._choose(sorted(troubles), "trouble")]
        act(self._choose(chosen, "of"))

    def _troubles(self) -> dict[str, tuple[Callable[[str], None], list[str]]]:
        """Return what may go wrong by name: what to do, and to which steps or jobs."""
        world, steps = self.world, self.world.store.rows.steps
        leased = [one.step_run_id for one in world.leases]
        asked = [one for one in leased if steps[one].status is StepStatus.RUNNING and steps[one].cancel_cause]
        unsent = [one for one in leased if steps[one].status is StepStatus.QUEUED]
        bound = [one for one, row in world.queue.items() if row.agent_id is not None]
        held = [name for name in self._jobs(ended=False) if world.job(name).agent_id is not None]
        found: dict[str, tuple[Callable[[str], None], list[str]]] = {
            "abandoned": (lambda name: world.abandon(world.step(name).id), [world.name(one) for one in bound]),
            "given up": (world.fail_job, held),
            "not sent": (lambda name: world.fail_waiting(world.step(name).id), [world.name(one) for one in unsent]),
            "unanswered": (lambda name: world.end_cancelled(world.step(name).id), [world.name(one) for one in asked]),
        }
        return {name: (act, chosen) for name, (act, chosen) in found.items() if chosen}

    def _crash(self) -> None:
        """The server ends before it could write: nothing has changed, and what was to be done can be done again."""
        store, before = self.world.store, self.world.store.rows.copy()
        with store.crashing(), suppress(Crash):
            if self.world.gates():
                self.world.approve(self.world.gates()[0])
            else:
                self.world.cancel(self._choose_step(self._workable()))
        assert store.rows == before

    # Users and time

    def _cancel_step(self) -> None:
        cause, job = self._choose(_CAUSES, "cause"), self._choose(self._jobs(ended=False), "job")
        steps = {step.index + 1: step for step in self.world.steps(job) if not step.status.terminal}
        if not steps:
            return  # the job waits at its gate
        step = steps[self._choose(sorted(steps), "step")]
        if cause is CancelCause.REQUEST or step.status is StepStatus.RUNNING:  # time ends running steps only
            self.world.cancel(step.id, "cancelled", cause)

    def _cancel_job(self) -> None:
        """A job is cancelled, or runs too long: it was not asked to end then, and does not wait at its gate."""
        cause, name = self._choose(_CAUSES, "cause"), self._choose(self._jobs(ended=False), "job")
        job = self.world.job(name)
        late = job.status is RunStatus.RUNNING and not job.closing and job.gate is not GateState.WAITING
        if cause is CancelCause.REQUEST or late:
            self.world.cancel_job(name, "cancelled", cause)

    def _end_run(self) -> None:
        """The run is stopped, or its time is over."""
        if self._choose(_CAUSES, "cause") is CancelCause.TIMEOUT:
            if not self.world.run.ending:
                self.world.time_out()
        elif not self.world.run.stopped:
            self.world.stop()

    def _pause_or_resume(self) -> None:
        if self.world.run.paused:
            self.world.resume()
        else:
            self.world.pause()

    def _time_passes(self) -> None:
        self.world.time_passes()

    # Gates, keys, attempts, additions

    def _decide(self) -> None:
        """Somebody decides a gate, or nobody does in time, which counts as refused."""
        gate, approved = self._choose(self.world.gates(), "gate"), self._choose(_MOSTLY, "approved")
        self.world.decide(gate, approved=approved)

    def _give_key(self) -> None:
        """The keys are looked at: it is for the store to say whether this job is the next one."""
        self.world.give_key(self._choose(self._wanting(), "job"))

    def _retry(self) -> None:
        """A job is run again; or of a run that has ended what failed, or everything."""
        self._retried += 1
        jobs = self._jobs(ended=True)
        of_run = ["failed", "all"] if self.world.run.status.terminal else []
        what = self._choose([*jobs, *of_run], "of")
        with suppress(InvalidTransition):
            if what in jobs:
                self.world.retry(f"{what}1")
            else:
                self.world.retry_run(everything=what == "all")

    def _add(self) -> None:
        """Add a step to a job, or a job of one step to the run."""
        self._added += 1
        shape = self._choose((*STEPS, ".a"), "step")
        with suppress(InvalidTransition):
            if self._choose(_MOSTLY, "to a job"):
                self.world.add_step(self._choose(self._jobs(ended=False), "job"), shape)
            else:
                self.world.add_job(shape)

    # What there is

    def _workable(self) -> list[UUID]:
        claimable = [step_id for step_id, row in self.world.queue.items() if not row.held and not row.delay]
        return [lease.step_run_id for lease in self.world.leases] + claimable

    def _jobs(self, *, ended: bool) -> list[str]:
        return [name for name in self.world.job_ids if self.world.job(name).status.terminal is ended]

    def _wanting(self) -> list[str]:
        return [name for name in self.world.job_ids if self.world.waits_for_key(name)]

    def _choose_step(self, step_ids: Collection[UUID]) -> UUID:
        """Choose a step by a name that people can read: `a2@1` is the first attempt at the second step of a."""
        steps = self.world.store.rows.steps
        names = {f"{self.world.name(one)}@{steps[one].attempt}": one for one in step_ids}
        return names[self._choose(sorted(names), "step")]

    def _choose_lease(self) -> Lease:
        leases = {lease.step_run_id: lease for lease in self.world.leases}
        return leases[self._choose_step(leases)]


def end_all(worlds: Sequence[World]) -> None:
    """Whatever happened: when agents keep succeeding, gates are approved and keys are given, all runs end."""
    for world in worlds:
        if world.run.paused:
            world.resume()
    # A round in which no step ends may still decide a gate, and so give back a key that another run waits for.
    idle = 0
    while idle <= len(worlds):
        idle = 0 if sum(finish_all(world, sorted(AGENTS)) for world in worlds) else idle + 1
    for world in worlds:
        world.check()
        assert world.run.status.terminal, f"stuck: {world.states()} in {world.run.status}"
