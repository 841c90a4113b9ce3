"""Bring queued step runs to agents: the pass of the scheduler, and the three doors through which agents take work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from arcentra_server.db import claims
from arcentra_server.db.bell import WorkBell
from arcentra_server.db.engine import Tx, new_id
from arcentra_server.db.execution import load_steps
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.domain.execution import CancelCommand, Dispatch
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.ports import AgentLinks
from arcentra_server.domain.selectors import Selector
from arcentra_server.domain.states import StepStatus
from arcentra_server.scheduling.plan import AgentSlots, matching, plan

LARGEST_PASS = 1_000
MOST_PASSED = 1_000  # ids of selectors that were given out and not seen yet
REFUSED_SECONDS = 5.0  # before a step run that an agent refused is placed again


@dataclass(frozen=True, slots=True)
class CatchUp:
    """What an agent that connects has missed."""

    dispatches: list[Dispatch]
    cancels: list[CancelCommand]
    released: list[UUID]


@dataclass(slots=True)
class _Demand:
    """An agent that pulls: it takes up to `wanted` step runs, once."""

    agent_id: UUID
    wanted: int
    answer: asyncio.Future[list[Dispatch]]


class DispatchService:
    """Claims for agents that hold a push channel to this process, and for those that pull from it."""

    def __init__(self, store: ExecutionStore, links: AgentLinks, bell: WorkBell) -> None:
        self._bell = bell
        self._store = store
        self._links = links
        self._demands: list[_Demand] = []
        self._closed = False
        # Leases that agents which pull were given by this process, and have not started: not to be given twice.
        self._handed_out: set[UUID] = set()
        self._selectors: dict[int, Selector] = {}
        self._passed: list[int] = []
        self._matches: tuple[object, dict[int, tuple[UUID, ...]]] = (None, {})
        # Two passes at once would count the same free slots.
        self._pass = asyncio.Lock()

    async def run_once(self) -> int:
        """Place what can be placed now; return how many step runs were leased."""
        async with self._pass:
            return await self._run_pass()

    async def _run_pass(self) -> int:
        self._bell.answer()
        demands = [demand for demand in self._demands if not demand.answer.done()]
        if not demands and not self._links.connected():
            return 0
        async with self._store.database.transaction() as tx:
            demands = await self._answer_with_leases(tx, demands)
            # An agent that pulls and has its answer takes nothing more until it asks again.
            targets = {*self._links.connected(), *(demand.agent_id for demand in demands)}
            agents = await claims.free_slots(tx, list(targets))
            if not agents:
                return 0
            agents = _limit(agents, demands)
            if self._bell.look_for_new_work():
                self._learn(await claims.selectors_after(tx, max(self._selectors, default=0), self._passed))
            matches = self._match(agents)
            free = {agent.id: agent.free for agent in agents}
            rooms = {
                selector: min(sum(free[agent] for agent in ids), LARGEST_PASS) for selector, ids in matches.items()
            }
            queue = await claims.lock_heads(tx, rooms, list(free), LARGEST_PASS)
            if not queue:
                return 0
            planned = plan(queue, agents, matches)
            if not planned.assignments:
                return 0
            rows = await claims.claim(tx, [(new_id(), step, agent) for step, agent in planned.assignments])
            dispatches = await self._store.dispatches(tx, rows)
        self._deliver(dispatches, demands)
        await self._store.fail_unsendable()
        if len(rows) >= LARGEST_PASS or len(rows) < len(planned.assignments):
            self._bell.ring()
        return len(rows)

    async def fetch(self, agent_id: UUID, wanted: int, wait_seconds: float) -> list[Dispatch]:
        """Return up to `wanted` step runs for an agent that pulls, waiting for the first at most `wait_seconds`.

        Leases it was given before and has not started come first.
        """
        async with self._store.database.transaction() as tx:
            again = (await self._store.dispatches(tx, await claims.unacknowledged(tx, [agent_id])))[:wanted]
        if again or self._closed:
            self._handed_out |= {dispatch.lease_id for dispatch in again}
            return again
        demand = _Demand(agent_id, wanted, asyncio.get_running_loop().create_future())
        self._demands.append(demand)
        self._bell.ring()
        try:
            if wait_seconds:
                await asyncio.wait([demand.answer], timeout=wait_seconds)
            else:
                await self.run_once()
            return demand.answer.result() if demand.answer.done() else []
        finally:
            self._demands.remove(demand)
            if not demand.answer.done():
                demand.answer.cancel()

    def close(self) -> None:
        """Let nobody wait any more: the server stops."""
        self._closed = True
        for demand in self._demands:
            if not demand.answer.done():
                demand.answer.set_result([])

    async def refused(self, agent_id: UUID, lease_id: UUID, message: str) -> None:
        """Take a step run back that an agent will not run; it waits a little before it is placed again."""

        async def decide(tx: Tx, ledger: Ledger) -> None:
            step_id = await claims.step_of(tx, lease_id, agent_id)
            if step_id is None:
                return
            await load_steps(tx, ledger, [step_id])
            step = ledger.steps[step_id]
            if step.lease is not None and step.lease.id == lease_id and step.status is StepStatus.QUEUED:
                ledger.lose(step, message, agent_gone=False, delay_seconds=REFUSED_SECONDS)

        await self._store.change(decide)

    async def catch_up(
        self, agent_id: UUID, running: Sequence[UUID], kept_jobs: Sequence[UUID], *, names_steps: bool
    ) -> CatchUp:
        """Answer what an agent that connects has missed: keep or kill for each step it runs, and what it should have.

        Args:
            agent_id: The agent.
            running: The step runs whose process it has.
            kept_jobs: The job runs whose workspace it has.
            names_steps: Whether `running` is complete; a started step that it leaves out is then lost.
        """
        present = set(running)

        async def decide(tx: Tx, ledger: Ledger) -> CatchUp:
            held = {row["step_run_id"]: row for row in await claims.held(tx, agent_id)}
            started = [step for step, row in held.items() if row["status"] == StepStatus.RUNNING]
            lost = [step for step in started if names_steps and step not in present]
            if lost:
                await load_steps(tx, ledger, lost)
                for step_id in lost:
                    ledger.lose(ledger.steps[step_id], "the agent was restarted and does not have the step any more")
            stop = [CancelCommand(agent_id, step_id, "lease lost") for step_id in present if step_id not in held]
            asked = [
                CancelCommand(agent_id, step_id, row["cancel_reason"])
                for step_id, row in held.items()
                if row["cancel_cause"] and step_id not in lost
            ]
            again = await self._store.dispatches(tx, await claims.unacknowledged(tx, [agent_id]))
            return CatchUp(again, stop + asked, await claims.finished_jobs(tx, kept_jobs, agent_id))

        return await self._store.change(decide)

    async def _answer_with_leases(self, tx: Tx, demands: Sequence[_Demand]) -> list[_Demand]:
        """Answer agents that pull with what was leased to them since: the next steps of their jobs. Return the rest."""
        if not demands:
            return []
        rows = await claims.unacknowledged(tx, list({demand.agent_id for demand in demands}))
        self._handed_out &= {row["id"] for row in rows}
        fresh = [row for row in rows if row["id"] not in self._handed_out]
        self._deliver(await self._store.dispatches(tx, fresh), demands)
        return [demand for demand in demands if not demand.answer.done()]

    def _learn(self, selectors: Mapping[int, Selector]) -> None:
        """Keep selectors that became known, and the ids below them that were passed over: not committed, or never."""
        last = max(self._selectors, default=0)
        self._passed = [identity for identity in self._passed if identity not in selectors]
        self._passed += [
            identity for identity in range(last + 1, max(selectors, default=last)) if identity not in selectors
        ]
        self._passed = self._passed[-MOST_PASSED:]
        self._selectors.update(selectors)

    def _match(self, agents: Sequence[AgentSlots]) -> Mapping[int, tuple[UUID, ...]]:
        key = (len(self._selectors), tuple((agent.id, tuple(sorted(agent.labels.items()))) for agent in agents))
        if self._matches[0] != key:
            self._matches = (key, matching(self._selectors, agents))
        return self._matches[1]

    def _deliver(self, dispatches: Sequence[Dispatch], demands: Sequence[_Demand]) -> None:
        pulled: dict[UUID, list[Dispatch]] = {demand.agent_id: [] for demand in demands}
        for dispatch in dispatches:
            if dispatch.agent_id in pulled:
                pulled[dispatch.agent_id].append(dispatch)
        for demand in demands:
            found = pulled[demand.agent_id]
            given, pulled[demand.agent_id] = found[: demand.wanted], found[demand.wanted :]
            if given and not demand.answer.done():
                demand.answer.set_result(given)
                self._handed_out |= {dispatch.lease_id for dispatch in given}
        self._links.dispatch([dispatch for dispatch in dispatches if dispatch.agent_id not in pulled])


def _limit(agents: Sequence[AgentSlots], demands: Sequence[_Demand]) -> list[AgentSlots]:
    """Cut the room of agents that pull to what they asked for."""
    wanted: dict[UUID, int] = {}
    for demand in demands:
        wanted[demand.agent_id] = wanted.get(demand.agent_id, 0) + demand.wanted
    return [AgentSlots(agent.id, agent.labels, min(agent.free, wanted.get(agent.id, agent.free))) for agent in agents]
