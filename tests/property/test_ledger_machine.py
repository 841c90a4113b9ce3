"""Anything that can happen to a run, in any order: what must hold holds after each change, and the run can be finished."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from uuid import UUID

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.execution import CancelCause, Lease, StepReport
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import StepStatus
from tests.support.ledger_checks import RunChecks
from tests.support.ledger_store import LedgerStore
from tests.support.ledger_world import AGENTS, SHAPES, World, finish_all

_JOBS = st.text(SHAPES, min_size=1, max_size=3)
_STAGES = st.lists(_JOBS, min_size=1, max_size=2).map(" ".join)
_RUNS = st.lists(_STAGES, min_size=1, max_size=3).map(" | ".join)
_AGENTS = st.sampled_from(sorted(AGENTS))
_MOST_JOBS = 8
_RARELY = st.sampled_from((False, False, True))  # what ends a whole job or run leaves little to happen to it

# What an agent mostly says, so that runs get somewhere, and what it may say.
_LIKELY = (StepStatus.RUNNING, StepStatus.RUNNING, StepStatus.SUCCESS, StepStatus.SUCCESS, StepStatus.FAILED)
_REPORTED = (*_LIKELY, StepStatus.TIMEOUT, StepStatus.CANCELLED, StepStatus.SKIPPED)


class LedgerMachine(RuleBasedStateMachine):
    """Each rule is one transaction; a refusal is an answer, and must change nothing."""

    world: World
    checks: RunChecks
    sound = False

    @initialize(shape=_RUNS)
    def begin(self, shape: str) -> None:
        self.world = World(shape)
        self.checks = RunChecks(self.world.store)

    @precondition(lambda self: any(not row.held for row in self.world.store.queue.values()))
    @rule(data=st.data(), agent=_AGENTS)
    def claim(self, data: st.DataObject, agent: str) -> None:
        store = self.world.store
        step_id = self._draw_step(data, [step_id for step_id, row in store.queue.items() if not row.held])
        store.claim(step_id, store.queue[step_id].agent_id or AGENTS[agent])

    @precondition(lambda self: self._workable())
    @rule(
        data=st.data(),
        agent=_AGENTS,
        status=st.sampled_from((StepStatus.SUCCESS, StepStatus.SUCCESS, StepStatus.FAILED)),
    )
    def work(self, data: st.DataObject, agent: str, status: StepStatus) -> None:
        """An agent does what agents do, in one go: without this few runs get far."""
        store = self.world.store
        step_id = self._draw_step(data, self._workable())
        if step_id in store.queue:
            store.claim(step_id, store.queue[step_id].agent_id or AGENTS[agent])
        lease = store.lease_of(step_id)
        assert lease is not None
        statuses = (StepStatus.RUNNING, status)
        verdicts = store.take([StepReport(lease.agent_id, step_id, one) for one in statuses])
        assert verdicts == [None, None]

    @precondition(lambda self: self.world.store.leases)
    @rule(data=st.data(), statuses=st.lists(st.sampled_from(_REPORTED), min_size=1, max_size=2))
    def report(self, data: st.DataObject, statuses: list[StepStatus]) -> None:
        """The agent that has the lease says something, with or without its token."""
        store = self.world.store
        lease = self._draw_lease(data)
        attempt = data.draw(st.sampled_from((0, store.steps[lease.step_run_id].attempt)), "attempt")
        token = LedgerStore.token(lease.id) if attempt else ""
        store.take(
            [
                StepReport(lease.agent_id, lease.step_run_id, status, attempt=attempt, lease_token=token)
                for status in statuses
            ]
        )

    @rule(data=st.data(), agent=_AGENTS, status=st.sampled_from(StepStatus), attempt=st.integers(0, 3))
    def report_anything(self, data: st.DataObject, agent: str, status: StepStatus, attempt: int) -> None:
        """Any agent says anything of any step, also of old attempts. A refusal leaves every row as it was."""
        store = self.world.store
        step_id = self._draw_step(data, list(store.steps))
        lease = store.lease_of(step_id)
        entitled = lease is not None and lease.agent_id == AGENTS[agent]
        before = (store.steps[step_id], store.run, len(store.events), dict(store.leases), dict(store.queue))
        [verdict] = store.take([StepReport(AGENTS[agent], step_id, status, attempt=attempt)])
        after = (store.steps[step_id], store.run, len(store.events), dict(store.leases), dict(store.queue))
        if verdict is not None or not entitled:
            assert after == before

    @rule(data=st.data(), cause=st.sampled_from(CancelCause))
    def cancel_step(self, data: st.DataObject, cause: CancelCause) -> None:
        store = self.world.store
        step_id = self._draw_step(data, list(store.steps))
        if cause is CancelCause.TIMEOUT and store.steps[step_id].status is not StepStatus.RUNNING:
            return  # time ends running steps only

        def decide(ledger: Ledger) -> None:
            store.load_steps(ledger, [step_id])
            ledger.cancel_step(ledger.steps[step_id], "cancelled", cause)

        with suppress(InvalidTransition):
            store.change(decide)

    @precondition(lambda self: self._open_jobs())
    @rule(data=st.data(), really=_RARELY)
    def cancel_job(self, data: st.DataObject, *, really: bool) -> None:
        name = data.draw(st.sampled_from(self._open_jobs()), "job")
        if really:
            self.world.cancel_job(name)

    @precondition(lambda self: self._held_jobs())
    @rule(data=st.data(), really=_RARELY)
    def fail_job(self, data: st.DataObject, *, really: bool) -> None:
        """The agent that has a job gives it up."""
        name = data.draw(st.sampled_from(self._held_jobs()), "job")
        if really:
            self.world.fail_job(name)

    @precondition(lambda self: self.world.store.leases)
    @rule(data=st.data(), agent_gone=st.booleans())
    def lose(self, data: st.DataObject, *, agent_gone: bool) -> None:
        """An agent is gone with all that it has, or did not start one of its steps in time."""
        store = self.world.store
        lease = self._draw_lease(data)
        leases = [
            one for one in store.leases.values() if one is lease or (agent_gone and one.agent_id == lease.agent_id)
        ]
        lost = [store.steps[one.step_run_id] for one in leases]
        if not agent_gone:
            lost = [step for step in lost if step.status is StepStatus.QUEUED]

        def decide(ledger: Ledger) -> None:
            store.load_steps(ledger, [step.id for step in lost])
            for step in lost:
                ledger.lose(ledger.steps[step.id], "lost", agent_gone=agent_gone)

        store.change(decide)
        if agent_gone:
            assert all(one.agent_id != lease.agent_id for one in store.leases.values()), (
                "leased to an agent that is gone"
            )

    @rule(really=_RARELY)
    def stop(self, *, really: bool) -> None:
        if really and not self.world.run.stopped:
            with suppress(InvalidTransition):
                self.world.stop()

    @rule()
    def pause(self) -> None:
        if not self.world.run.stopped and not self.world.run.paused:
            with suppress(InvalidTransition):
                self.world.pause()

    @precondition(lambda self: self.world.run.paused)
    @rule()
    def resume(self) -> None:
        self.world.resume()

    @precondition(lambda self: any(job.status.terminal for job in self.world.store.jobs.values()))
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        ended = [name for name in self.world.job_ids if self.world.job(name).status.terminal]
        with suppress(InvalidTransition):
            self.world.retry(f"{data.draw(st.sampled_from(ended), 'job')}1")

    @rule(data=st.data(), shape=st.sampled_from(SHAPES))
    def add_step(self, data: st.DataObject, shape: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.job_ids)), "job")
        with suppress(InvalidTransition):
            self.world.add_step(name, shape)

    @rule(shape=st.sampled_from(SHAPES))
    def add_job(self, shape: str) -> None:
        if len(self.world.job_ids) < _MOST_JOBS:
            with suppress(InvalidTransition):
                self.world.add_job(shape)

    @invariant()
    def holds(self) -> None:
        self.sound = False
        self.checks.check()
        self.sound = True

    def teardown(self) -> None:
        """Whatever happened: when the agents keep reporting success, the run ends."""
        if not self.sound:
            return  # said already
        if self.world.run.paused:
            self.world.resume()
        finish_all(self.world, sorted(AGENTS))
        self.checks.check()
        assert self.world.run.status.terminal, f"stuck: {self.world.states()} in {self.world.run.status}"

    def _workable(self) -> list[UUID]:
        store = self.world.store
        leased = [lease.step_run_id for lease in store.leases.values()]
        return leased + [step_id for step_id, row in store.queue.items() if not row.held]

    def _open_jobs(self) -> list[str]:
        return [name for name in self.world.job_ids if not self.world.job(name).status.terminal]

    def _held_jobs(self) -> list[str]:
        return [name for name in self._open_jobs() if self.world.job(name).agent_id is not None]

    def _draw_step(self, data: st.DataObject, step_ids: Collection[UUID]) -> UUID:
        """Draw one of the steps, by a name that people can read: `a2@1` is the first attempt at the second step of a."""
        names = {f"{self.world.name(one)}@{self.world.store.steps[one].attempt}": one for one in step_ids}
        return names[data.draw(st.sampled_from(sorted(names)), "step")]

    def _draw_lease(self, data: st.DataObject) -> Lease:
        leases = {lease.step_run_id: lease for lease in self.world.store.leases.values()}
        return leases[self._draw_step(data, leases)]


def test_anything_may_happen_in_any_order() -> None:
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=200,
            stateful_step_count=50,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
            phases=tuple(phase for phase in Phase if phase is not Phase.explain),  # explaining takes minutes here
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
