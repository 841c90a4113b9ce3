"""The same things happen to a run in memory and to one in the database: both say the same after each of them.

What holds of the ledger is tried in memory, over a small store that does what `db/` does (`tests/support/ledger_*.py`),
with conditions that are letters. This holds that the store and the letters are like the database and CEL.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random
from typing import TypeVar
from uuid import UUID

import pytest

from arcentra_server.db.approvals import ApprovalFilter
from arcentra_server.db.paging import Page
from arcentra_server.db.step_runs import StepRow
from arcentra_server.domain.definition import StepSpec
from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.execution import Dispatch, StepReport
from arcentra_server.domain.identity import Caller, Role
from arcentra_server.domain.states import ApprovalState, StepStatus
from arcentra_server.services.approvals import Decision
from arcentra_server.services.runs import RetryScope
from arcentra_server.services.step_runs import AddedStep
from tests.support.ledger_view import AGENTS
from tests.support.ledger_world import World as InMemory
from tests.support.world import Run, World

Chosen = TypeVar("Chosen")

SHAPES = (
    ". ..[needs=a] .[needs=a;when=f] .[needs=b,c;when=a] | & .[when=a] .[allow] | .[when=s] .",
    "..a[retry=2] .[needs=a;allow] .[needs=b] | ..E .[when=e] .[when=E] .[when=t] | ?a",
    ".[gate] .[needs=a;when=a] .[needs=b;when=c] .. | & .. | .[when=a]",
    "& .[gate] .[needs=a] . | & .[gate] . | .",
    "..[key=k] .[key=k] .a[key=k;when=a;needs=a] | .[key=k;retry=2;on=script]",
    "?.f.a .*. !..a[retry=3;on=timeout,agent_lost] .c.n.t.a | .[when=n] .[needs=e] .[needs=f;when=a]",
    ".[source=https://example.invalid/r.git] ..[source=https://example.invalid/r.git;retry=2] .[needs=a,b]",
)
ENDS = (StepStatus.SUCCESS, StepStatus.SUCCESS, StepStatus.SUCCESS, StepStatus.FAILED, StepStatus.TIMEOUT)
STEPS = 25
_SILENT = "UPDATE agents SET lease_until = clock_timestamp() - interval '1 s'"


class Twins:
    """A run that is there twice, and what may happen to both."""

    def __init__(self, memory: InMemory, world: World, run: Run, dice: Random) -> None:
        self._memory = memory
        self._world = world
        self._run = run
        self._dice = dice
        self._sent: dict[str, Dispatch] = {}
        self._added = 0

    async def go_on(self) -> None:
        """Give out keys and steps, in both; compare what came of it."""
        memory, world = self._memory, self._world
        while any([memory.give_key(name) for name in memory.job_ids if memory.waits_for_key(name)]):  # noqa: C419
            pass
        for step_id, row in list(memory.queue.items()):
            if not row.held:
                memory.claim_step(step_id, AGENTS["x"])
        await world.server.concurrency.run_once()
        await world.server.schedule()
        names = {step.id: name for name, step in await self._steps()}
        for dispatches in list(world.server.links.sent.values()):
            self._sent |= {names[one.step_run_id]: one for one in dispatches if one.step_run_id in names}
        world.server.links.sent.clear()
        assert await self._stored() == self._in_memory()

    async def _steps(self) -> list[tuple[str, StepRow]]:
        jobs = (await self._run.row()).jobs
        return [(f"{job.name}{step.step_index + 1}", step) for job in jobs for step in job.steps if not step.superseded]

    async def _stored(self) -> dict[str, object]:
        row = await self._run.row()
        jobs = {
            job.name: (
                *(job.status, job.waits_for, job.attempt, job.gate, job.failure_reason),
                [(step.status, step.failure_reason) for step in job.steps if not step.superseded],
            )
            for job in row.jobs
        }
        return {**jobs, "run": (row.status, row.completed_jobs, row.failed_jobs, row.running_jobs)}

    def _in_memory(self) -> dict[str, object]:
        memory = self._memory
        jobs = {
            name: (
                *(job.status, job.waits_for, job.attempt, job.gate, job.failure_reason),
                [(step.status, step.failure_reason) for step in memory.steps(name)],
            )
            for name, job in ((name, memory.job(name)) for name in memory.job_ids)
        }
        run = memory.run
        return {**jobs, "run": (run.status, run.completed_jobs, run.failed_jobs, run.running_jobs)}

    # What happens

    async def happens(self) -> None:
        """Let one thing happen to both; both refuse it, or none."""
        ended = self._memory.run.status.terminal
        able: dict[Callable[[], Awaitable[None]], int] = {
            self.work: 12 if self._memory.leases else 0,
            self.decide: 12 if self._memory.gates() else 0,
            self.lose: 1 if self._memory.leases else 0,
            self.cancel: 0 if ended else 2,
            self.pause_or_resume: 0 if ended or self._memory.run.ending else 1,
            self.stop: 0 if ended or self._memory.run.stopped else 1,
            self.retry: 6 if ended else 1,
            self.add: 0 if ended or self._memory.run.ending or self._added == 2 else 1,
        }
        await self._choose([act for act, weight in able.items() for _ in range(weight)])()

    async def work(self) -> None:
        name = self._choose(sorted(self._memory.name(lease.step_run_id) for lease in self._memory.leases))
        dispatch, status = self._sent[name], self._choose(ENDS)
        outputs = {"commit": self._choose(("c1", "c1", "c2"))}
        for one in (StepStatus.RUNNING, status)[: self._choose((1, 2, 2))]:
            step = self._memory.step(name)
            [mine] = self._memory.take([StepReport(AGENTS["x"], step.id, one, outputs=outputs)])
            theirs = await self._world.report(dispatch, one, outputs=outputs)
            assert type(mine) is type(theirs)

    async def decide(self) -> None:
        gate, approved = self._choose(self._memory.gates()), self._choose((True, True, False))
        wanted = ApprovalFilter(run_id=self._run.id, state=ApprovalState.PENDING)
        rows, _ = await self._world.server.approvals.list_page(wanted, Page())
        [row] = [row for row in rows if gate == (row.job_name or f"|{row.stage_index}")]
        self._memory.decide(gate, approved=approved)
        voter = Caller("t1", "ada", Role.APPROVER)
        await self._world.server.approvals.decide(Decision(row.id, approved=approved), voter)

    async def lose(self) -> None:
        """The agent falls silent; what waits for it alone is given up, and it comes back."""
        self._memory.lose_steps([lease.step_run_id for lease in self._memory.leases], "gone")
        for step_id, row in list(self._memory.queue.items()):
            if row.agent_id is not None:
                self._memory.abandon(step_id)
        await self._world.sql(_SILENT)
        await self._world.server.reaper.run_once()
        for agent in self._world.server.links.online:
            await self._world.server.agents.heartbeat(agent)

    async def cancel(self) -> None:
        job = self._choose([name for name in self._memory.job_ids if not self._memory.job(name).status.terminal])
        steps = [step for step in self._memory.steps(job) if not step.status.terminal]
        one_step = self._choose((True, False))
        if steps and one_step:
            step = self._choose(steps)
            name = self._memory.name(step.id)
            self._memory.cancel(step.id)
            await self._world.server.steps.cancel(await self._step_id(name), "")
        else:
            self._memory.cancel_job(job)
            await self._world.server.runs.cancel_job(await self._run.job_id(job), "")

    async def pause_or_resume(self) -> None:
        runs, memory = self._world.server.runs, self._memory
        if memory.run.paused:
            memory.resume()
            await runs.resume(self._run.id, None, "", "")
        else:
            memory.pause()
            await runs.pause(self._run.id, None, "", "")

    async def stop(self) -> None:
        self._memory.stop()
        await self._world.server.runs.stop(self._run.id, None, "")

    async def retry(self) -> None:
        ended = [name for name in self._memory.job_ids if self._memory.job(name).status.terminal]
        of_run = ["failed", "all"] if self._memory.run.status.terminal else []
        if not ended:
            return
        what = self._choose([*ended, *of_run])
        if what in ended:
            step_id = await self._step_id(f"{what}1")
            await self._both(lambda: self._memory.retry(f"{what}1"), lambda: self._world.server.steps.retry(step_id))
        else:
            scope = RetryScope(what)
            await self._both(
                lambda: self._memory.retry_run(everything=scope is RetryScope.ALL),
                lambda: self._world.server.runs.retry(self._run.id, scope),
            )

    async def add(self) -> None:
        """Add a step to a job, or a job of one step."""
        self._added += 1
        name = self._choose([*self._memory.job_ids, ""])
        spec = StepSpec(f"added-{self._added}", uses="shell", args={"script": "true"})
        if name:
            added = AddedStep(spec, job_id=await self._run.job_id(name))
            await self._both(
                lambda: self._memory.add_step(name), lambda: self._world.server.steps.create(added, "tester")
            )
        else:
            added = AddedStep(spec, run_id=self._run.id, job_name=chr(ord("a") + len(self._memory.job_ids)))
            await self._both(self._memory.add_job, lambda: self._world.server.steps.create(added, "tester"))

    async def _both(self, mine: Callable[[], object], theirs: Callable[[], Awaitable[object]]) -> None:
        refused = ""
        try:
            mine()
        except InvalidTransition as refusal:
            refused = str(refusal)
        with suppress(InvalidTransition):
            await theirs()
            assert not refused, f"only refused in memory: {refused}"
            return
        assert refused, "only refused by the service"

    async def _step_id(self, name: str) -> UUID:
        return next(step for known, step in await self._steps() if known == name).id

    def _choose(self, options: Sequence[Chosen]) -> Chosen:
        return self._dice.choice(options)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
async def test_both_say_the_same_after_each_thing_that_happens(world: World, shape: str, seed: int) -> None:
    await world.agent("x", capacity=50, own="yes")
    twins = Twins(InMemory(shape), world, await world.start(shape), Random(seed))  # noqa: S311 - a seed is wanted
    await twins.go_on()
    for _ in range(STEPS):
        await twins.happens()
        await twins.go_on()
