"""The services on a real database, without gRPC: a transport that records, and verbs for what happens to runs."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID

from arcentra_server.db.bell import WorkBell
from arcentra_server.db.engine import Database, Row
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.db.new_runs import SelectorIds
from arcentra_server.db.run_starter import RunStarter
from arcentra_server.db.runs import RunRow
from arcentra_server.db.step_runs import StepRow
from arcentra_server.db.vault import Vault
from arcentra_server.domain.definition import PipelineSpec
from arcentra_server.domain.execution import CancelCommand, Dispatch, Release, StepReport
from arcentra_server.domain.identity import Role, TokenKind
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.lease_tokens import LeaseTokens
from arcentra_server.domain.secret_box import KeyRing
from arcentra_server.domain.states import RunStatus, StepStatus, TriggerType
from arcentra_server.domain.token_maker import TokenMaker
from arcentra_server.rpc.convert.dispatch import WireForm, complete, spec_of
from arcentra_server.services.agents import AgentFacts, AgentService
from arcentra_server.services.approvals import ApprovalService
from arcentra_server.services.arrivals import ArrivalService, CatchUp
from arcentra_server.services.auth import AuthService
from arcentra_server.services.concurrency import ConcurrencyService
from arcentra_server.services.dispatch import DispatchService
from arcentra_server.services.explain import ExplainService
from arcentra_server.services.fleet import FleetService
from arcentra_server.services.notifier import Notifier
from arcentra_server.services.orders import OrderService
from arcentra_server.services.pipelines import NewPipeline, PipelineService
from arcentra_server.services.reaper import Reaper
from arcentra_server.services.reports import ReportService, Verdict
from arcentra_server.services.runs import RunService
from arcentra_server.services.step_runs import StepRunService
from arcentra_server.services.watchdog import Watchdog
from tests.support.consistency import check_consistent
from tests.support.post import Post
from tests.support.shapes import shape

LEASE_SECONDS = 300.0
_LETTERS = {status: status.value[0] for status in StepStatus} | {StepStatus.SKIPPED: "x"}


@dataclass(slots=True)
class RecordingLinks:
    """The agents that are connected, and what was sent to them. A `listener` sees dispatches at once."""

    online: set[UUID] = field(default_factory=set)
    sent: dict[UUID, list[Dispatch]] = field(default_factory=lambda: defaultdict(list))
    cancels: list[CancelCommand] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    listener: Callable[[Dispatch], None] | None = None

    def connected(self) -> set[UUID]:
        return self.online

    def reachable(self) -> set[UUID]:
        return self.online

    def unsent(self, leases: Mapping[UUID, UUID]) -> set[UUID]:
        sent = {dispatch.lease_id for dispatches in self.sent.values() for dispatch in dispatches}
        return {lease for lease, agent in leases.items() if agent in self.online and lease not in sent}

    def dispatch(self, dispatches: Sequence[Dispatch]) -> None:
        for dispatch in dispatches:
            if dispatch.agent_id in self.online:
                self.sent[dispatch.agent_id].append(dispatch)
                if self.listener is not None:
                    self.listener(dispatch)

    def cancel(self, commands: Sequence[CancelCommand]) -> None:
        self.cancels += [command for command in commands if command.agent_id in self.online]

    def release(self, releases: Sequence[Release]) -> None:
        self.releases += [release for release in releases if release.agent_id in self.online]


class Server:
    """The services of one server process. Several may work on one database."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        maker = TokenMaker(b"k" * 32, os.urandom)
        self.keys = KeyRing({"test": b"s" * 32})
        self.vault = Vault(self.keys)
        self.links = RecordingLinks()
        self.bell = WorkBell()
        self.key_bell = WorkBell()
        self.store = ExecutionStore(
            database,
            self.links,
            LeaseTokens(b"l" * 32),
            WireForm(),
            self.vault,
            on_change=(),
            on_new_work=(self.bell.ring_for_new_work,),
            on_room=(self.bell.ring,),
            on_keys=(self.key_bell.ring,),
        )
        self.dispatch = DispatchService(self.store, self.links, self.bell)
        self.auth = AuthService(database, maker, clock)
        self.agents = AgentService(self.store, maker, lease_seconds=LEASE_SECONDS)
        self.arrivals = ArrivalService(self.store)
        self.fleet = FleetService(self.store)
        self.reports = ReportService(self.store)
        self.pipelines = PipelineService(database)
        selectors = SelectorIds()
        self.starter = RunStarter(self.store, selectors)
        self.runs = RunService(self.store, self.starter)
        self.steps = StepRunService(self.store, selectors)
        self.approvals = ApprovalService(self.store)
        self.concurrency = ConcurrencyService(self.store, self.key_bell)
        self.post = Post()
        self.notifier = Notifier(database, self.vault, self.post, lambda: 0.5)
        self.explain = ExplainService(database)
        self.orders = OrderService(self.store, self.links)
        self.repairs: Counter[str] = Counter()
        self.watchdog = Watchdog(self.store, lambda rule, count: self.repairs.update({rule: count}))
        self.reaper = Reaper(self.store, lease_seconds=LEASE_SECONDS, unwritten=self.agents.unwritten)

    async def schedule(self) -> int:
        """Run passes as the scheduler's loop does: while there may be something to place. Return how many were leased."""
        leased = 0
        while True:
            leased += await self.dispatch.run_once()
            try:
                async with asyncio.timeout(0):
                    await self.bell.wait()
            except TimeoutError:
                return leased


class World:
    """One database and one server on it. Use it as an async context manager; `clock` is that of the credentials' cache."""

    def __init__(self, dsn: str, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.database = Database(dsn)
        self.server = Server(self.database, clock)
        self._clock = clock
        self._stack = AsyncExitStack()
        self._registration = ""

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.database)
        group = await self._stack.enter_async_context(asyncio.TaskGroup())
        for batcher in (self.server.auth, self.server.agents, self.server.arrivals, self.server.reports):
            group.create_task(batcher.run())
            self._stack.callback(batcher.close)
        self._registration = await self.server.auth.issue(TokenKind.REGISTRATION, "any", Role.AGENT)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def check(self) -> None:
        """Fail unless all rows fit together."""
        async with self.database.transaction(snapshot=True) as tx:
            await check_consistent(tx)

    def another_server(self) -> Server:
        """A second process on the same database, of which only what needs no batcher works."""
        return Server(self.database, self._clock)

    # SQL

    async def sql(self, query: str, *values: object) -> list[Row]:
        async with self.database.transaction() as tx:
            return list(await tx.fetch(query, *values))

    async def value(self, query: str, *values: object) -> Any:
        async with self.database.transaction() as tx:
            return await tx.fetchval(query, *values)

    # Agents

    async def agent(self, name: str, capacity: int = 1, *, online: bool = True, **labels: str) -> UUID:
        """Let an agent join and say that it is alive; `online`: it holds a channel to the server."""
        joined = await self.server.agents.register(
            self._registration, AgentFacts(name, capacity=capacity, labels=labels)
        )
        await self.server.agents.heartbeat(joined.agent_id)
        if online:
            self.server.links.online.add(joined.agent_id)
        return joined.agent_id

    async def started(self, agent: UUID) -> AbstractSet[UUID]:
        """Let an agent be admitted to a channel; return the leases whose steps it has started by then."""
        token_id = await self.value("SELECT id FROM tokens WHERE agent_id = $1 AND revoked_at IS NULL", agent)
        return (await self.server.agents.admit(agent, token_id)).started

    async def come_back(self, agent: UUID, running: Sequence[UUID] = (), kept_jobs: Sequence[UUID] = ()) -> CatchUp:
        """Let an agent open a channel and say which steps and workspaces it has; return what it has missed."""
        started = await self.started(agent)
        return await self.server.arrivals.catch_up(agent, running, kept_jobs, started=started)

    def take(self, agent: UUID) -> list[Dispatch]:
        """Return what was sent to an agent since the last time."""
        return self.server.links.sent.pop(agent, [])

    def take_one(self, agent: UUID) -> Dispatch:
        [dispatch] = self.take(agent)
        return dispatch

    async def report(self, dispatch: Dispatch, status: StepStatus, **more: Any) -> Verdict:
        """Report a state of a step that was dispatched; return why it was refused, None if it was not."""
        report = StepReport(
            dispatch.agent_id,
            dispatch.step_run_id,
            status,
            attempt=dispatch.attempt,
            lease_token=dispatch.lease_token,
            **more,
        )
        [verdict] = await self.server.reports.submit([report])
        return verdict

    async def busy(self, count: int) -> tuple[list[UUID], list[Run]]:
        """Return new agents, and for each of them the run whose one step it has started."""
        agents = [await self.agent(f"x{number}") for number in range(count)]
        runs = [await self.start(".") for _ in agents]
        await self.server.schedule()
        for agent in agents:
            await self.begin(agent)
        held = {(await run.step("a1")).agent_id: run for run in runs}
        return agents, [held[agent] for agent in agents]

    async def begin(self, agent: UUID) -> Dispatch:
        """Start the one step that was sent to an agent."""
        dispatch = self.take_one(agent)
        assert await self.report(dispatch, StepStatus.RUNNING) is None
        return dispatch

    async def end(self, dispatch: Dispatch, status: StepStatus = StepStatus.SUCCESS, **more: Any) -> None:
        """End a step that runs."""
        assert await self.report(dispatch, status, **more) is None

    async def end_of(self, run: Run, name: str, status: StepStatus = StepStatus.SUCCESS) -> None:
        """End a step of a run that runs, as its agent."""
        step = await run.step(name)
        assert step.agent_id is not None
        [verdict] = await self.server.reports.submit([StepReport(step.agent_id, step.id, status)])
        assert verdict is None

    async def work(self, agent: UUID, outcomes: Mapping[str, StepStatus] | None = None) -> list[str]:
        """Run whatever an agent is sent, to the end, one after the other; return the names of the steps.

        `outcomes` are by step name, SUCCESS where there is none.
        """
        done: list[str] = []
        while True:
            await self.server.schedule()
            if not (dispatches := self.take(agent)):
                return done
            for dispatch in dispatches:
                name = step_name(dispatch)
                assert await self.report(dispatch, StepStatus.RUNNING) is None
                await self.end(dispatch, (outcomes or {}).get(name, StepStatus.SUCCESS))
                done.append(name)

    # Runs

    async def pipeline(self, spec: PipelineSpec | str, name: str = "", *, enabled: bool = True) -> UUID:
        """Create a pipeline, from a definition or from the notation of `tests/support/shapes.py`."""
        definition = shape(spec) if isinstance(spec, str) else spec
        return await self.server.pipelines.create(NewPipeline(definition, name=name, enabled=enabled), "tester")

    async def trigger(self, pipeline: UUID, request_id: str | None = None) -> Run:
        started = await self.server.runs.trigger(pipeline, Trigger(TriggerType.MANUAL, "tester", request_id=request_id))
        return Run(self, started.run_id, pipeline)

    async def start(self, spec: PipelineSpec | str) -> Run:
        """Create a pipeline and trigger it."""
        return await self.trigger(await self.pipeline(spec))


@dataclass(frozen=True, slots=True)
class Run:
    """A run; its steps and jobs are named as in the notation, and are those of the last attempt."""

    world: World
    id: UUID
    pipeline_id: UUID

    async def row(self) -> RunRow:
        return await self.world.server.runs.get(self.id)

    async def status(self) -> RunStatus:
        return (await self.row()).status

    async def states(self) -> str:
        """Return the first letters of the states of the steps, a word a job; `x` is SKIPPED."""
        jobs = (await self.row()).jobs
        return " ".join("".join(_LETTERS[step.status] for step in job.steps if not step.superseded) for job in jobs)

    async def job_statuses(self) -> list[RunStatus]:
        return [job.status for job in (await self.row()).jobs]

    async def job_id(self, name: str) -> UUID:
        [job_id] = [job.id for job in (await self.row()).jobs if job.name == name]
        return job_id

    async def step(self, name: str) -> StepRow:
        jobs = (await self.row()).jobs
        [step] = [step for job in jobs for step in job.steps if step.name == name and not step.superseded]
        return step

    async def step_id(self, name: str) -> UUID:
        return (await self.step(name)).id


def step_name(dispatch: Dispatch) -> str:
    """Return the name of the step that was dispatched."""
    return spec_of(dispatch.payload).step_name


def env_of(dispatch: Dispatch) -> dict[str, str]:
    """Return the environment variables of a step as its agent gets it."""
    return dict(complete(dispatch).env)
