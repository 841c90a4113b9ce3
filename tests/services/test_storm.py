"""Everything at once: many runs, a few agents, random outcomes, cancellations, pauses and losses, until all has ended."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from uuid import UUID

from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.states import StepStatus
from tests.support.world import Run, World

RUNS, AGENTS, SLOTS = 200, 4, 4
SHAPES = (".", ". .", "..", "?. | .", ".* | . .", "... | ?")
_SILENT = "UPDATE agents SET lease_until = clock_timestamp() - interval '1 s' WHERE id = $1"
OUTCOMES = (StepStatus.SUCCESS,) * 8 + (StepStatus.FAILED, StepStatus.TIMEOUT)


class Storm:
    """The agents as coroutines: they start what they are sent and report how it ended."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)  # noqa: S311 - a seed is wanted
        self.started: Counter[UUID] = Counter()
        self.queues: dict[UUID, asyncio.Queue[Dispatch]] = {}
        self.tasks: list[asyncio.Task[None]] = []
        world.server.links.listener = lambda dispatch: self.queues[dispatch.agent_id].put_nowait(dispatch)

    async def agent(self, group: asyncio.TaskGroup, name: str) -> None:
        agent = await self.world.agent(name, SLOTS, own="yes")
        self.queues[agent] = asyncio.Queue()
        self.tasks += [group.create_task(self._slot(agent)) for _ in range(SLOTS)]

    async def _slot(self, agent: UUID) -> None:
        while True:
            dispatch = await self.queues[agent].get()
            if await self.world.report(dispatch, StepStatus.RUNNING) is not None:
                continue  # it was cancelled on the way
            self.started[dispatch.step_run_id] += 1
            refusal = await self.world.report(dispatch, self.random.choice(OUTCOMES))
            assert refusal is None or isinstance(refusal, InvalidTransition), refusal  # its agent was lost meanwhile

    async def meddle(self, runs: list[Run]) -> None:
        """Cancel steps and jobs, stop, pause and resume runs; what has ended by then says so."""
        server = self.world.server
        for run in self.random.sample(runs, len(runs) // 2):
            with suppress(InvalidTransition):
                match self.random.randrange(5):
                    case 0:
                        await server.runs.stop(run.id, None, "storm")
                    case 1:
                        await server.steps.cancel(await run.step_id("a1"), "storm")
                    case 2:
                        await server.runs.cancel_job(await run.job_id("a"), "storm")
                    case _:
                        await server.runs.pause(run.id, None, "storm", "storm")
                        await server.runs.resume(run.id, None, "storm", "storm")

    async def lose(self) -> None:
        """Let agents fall silent, be lost, and come back."""
        for agent in [*self.queues, *self.queues]:
            await self.world.sql(_SILENT, agent)
            await self.world.server.reaper.run_once()
            await self.world.server.agents.heartbeat(agent)

    async def schedule(self) -> None:
        while True:
            await self.world.server.dispatch.run_once()
            await self.world.server.bell.wait()


async def test_storm(world: World) -> None:
    storm = Storm(world, seed=20)
    pipelines = [await world.pipeline(text) for text in SHAPES]
    async with asyncio.TaskGroup() as group:
        for number in range(AGENTS):
            await storm.agent(group, f"x{number}")
        background = [*storm.tasks, group.create_task(storm.schedule())]
        runs = await asyncio.gather(
            *(world.trigger(pipelines[number % len(pipelines)], f"request-{number}") for number in range(RUNS))
        )
        await asyncio.gather(storm.meddle(runs), storm.lose())
        async with asyncio.timeout(120):
            while await world.value("SELECT EXISTS (SELECT 1 FROM pipeline_runs WHERE finished_at IS NULL)"):
                await world.check()
                await world.server.reaper.run_once()
        for task in background:
            task.cancel()
    assert set(storm.started.values()) == {1}
    rows = await world.sql("SELECT id, status, failure_reason, started_at IS NOT NULL AS started FROM step_runs")
    assert {row["id"] for row in rows if row["started"]} == set(storm.started)
    unstarted = [row for row in rows if not row["started"]]
    lost = [row for row in unstarted if (row["status"], row["failure_reason"]) == ("FAILED", "agent_lost")]
    assert all(row["status"] in ("SKIPPED", "CANCELLED") for row in unstarted if row not in lost)
    assert await world.value("SELECT count(*) FROM leases WHERE ended_at IS NULL") == 0
    assert await world.value("SELECT count(*) FROM step_queue") == 0
