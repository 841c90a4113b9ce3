"""Bring queued step runs to agents: the pass of the scheduler, and the three doors through which agents take work."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from uuid import UUID

import structlog

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import claims, refusals
from arcentra_server.db.bell import WorkBell
from arcentra_server.db.engine import Tx, new_id
from arcentra_server.db.execution import load_steps
from arcentra_server.db.execution_store import ExecutionStore, Placed, PlacingFailed, once_committed
from arcentra_server.db.queue_head import MOST_READ, QueueHead
from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.portions import LARGEST_PORTION, LARGEST_STEP_RUN, leases_within, portions
from arcentra_server.domain.ports import AgentLinks
from arcentra_server.domain.selectors import Selector
from arcentra_server.domain.states import FailureReason, StepStatus
from arcentra_server.scheduling.plan import AgentSlots, Plan, QueuedStep
from arcentra_server.scheduling.pools import Pools

LOCKED_SECONDS = 0.05  # until what was locked is looked at again: about as long as a slow commit takes
MOST_PASSED = 1_000  # ids of selectors that were given out and not seen yet
# Before a step run is placed again that was refused once, twice, and so on; refused once more it fails. Agents that
# stop all at once refuse what reaches them, and are known to stop by the next heartbeat.
REFUSED_SECONDS = (1.0, 5.0, 10.0, 20.0)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Leased:
    """What a pass leased. `left`: the step runs it could not lease as planned, with the agents; `served`: who got some."""

    planned: int
    step_ids: AbstractSet[UUID]
    dispatches: Sequence[Dispatch]
    left: Mapping[UUID, UUID]
    served: AbstractSet[UUID]


_NOTHING = _Leased(0, frozenset(), (), {}, frozenset())


@dataclass(slots=True)
class _Demand:
    """An agent that pulls: it takes up to `wanted` step runs, once."""

    agent_id: UUID
    wanted: int
    answer: asyncio.Future[list[Dispatch]]


class DispatchService:
    """Claims for agents that hold a push channel to this process, and for those that pull from it.

    `count_leased` is told of the step runs that were leased from the queue.
    """

    def __init__(
        self,
        store: ExecutionStore,
        links: AgentLinks,
        bell: WorkBell,
        count_leased: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._bell = bell
        self._count_leased = count_leased
        self._store = store
        self._links = links
        self._demands: list[_Demand] = []
        self._closed = False
        # Leases that agents which pull were given by this process, and have not started: not to be given twice.
        self._handed_out: set[UUID] = set()
        self._pools = Pools()
        self._last_selector = 0
        self._passed: list[int] = []
        self._head = QueueHead()
        self._left: Collection[UUID] = ()  # step runs that the last pass with a plan could not claim
        # Two passes at once would count the same free slots. A change does not wait for one: it may hold what that wants.
        self._pass = asyncio.Lock()
        self._passes = 0  # under way, and waiting for their turn

    async def run_once(self) -> int:
        """Place what can be placed now; return how many step runs were leased."""
        self._passes += 1
        try:
            async with self._pass:
                try:
                    leased = await self._run_pass()
                except BaseException:
                    # What was to be leased is still in the queue, before what is left of its head.
                    self._head.forget()
                    raise
        finally:
            self._passes -= 1
        await self._store.fail_unsendable()
        return leased

    async def _run_pass(self) -> int:
        self._bell.answer()
        demands = [demand for demand in self._demands if not demand.answer.done()]
        if not demands and not self._links.connected():
            return 0
        async with self._store.database.transaction() as tx:
            demands = await self._answer_with_leases(tx, demands)
            if not await claims.work_waits(tx):
                # Once a second nothing waits: thousands of agents are not to be asked what room they have for it.
                await self._look_for_new_work(tx)
                return 0
            # An agent that pulls and has its answer takes nothing more until it asks again.
            targets = {*self._links.connected(), *(demand.agent_id for demand in demands)}
            agents = await claims.free_slots(tx, list(targets))
            if not agents:
                return 0
            agents = _limit(agents, demands)
            await self._look_for_new_work(tx)
            leased = await self._claim(tx, await self._head.plan(tx, agents, targets, self._pools))
            if not leased.planned:
                return 0
        crashpoint("claim.after_commit")
        self._deliver(leased.dispatches, demands)
        crashpoint("claim.sent")
        self._go_on(leased)
        return len(leased.step_ids)

    @asynccontextmanager
    async def placing(self, tx: Tx, ledger: Ledger) -> AsyncIterator[Placed]:
        """Lease what waits within a change: for the slots that it freed, or for all where it queued something.

        Only where nothing has to be waited for, neither a lock nor another's look at the queue; agents that pull, and new
        work of which nobody took note yet, as all agents were full or another server stored it, are for a pass.

        Raises:
            PlacingFailed: something went wrong; the transaction is to be rolled back.
        """
        connected = self._links.connected()
        queued = ledger.queued.keys() | ledger.stored_queued.keys()
        freed = [agent_id for agent_id, slots in ledger.freed.items() if slots > 0 and agent_id in connected]
        if not queued and not freed and not any(slots > 0 for slots in ledger.freed.values()):
            yield Placed(settled=True)
            return
        targets = list(connected) if queued else freed
        if not targets or self._passes or self._pass.locked() or self._bell.new_work_is_due:
            yield Placed()
            return
        all_here = all(agent_id in connected for agent_id, slots in ledger.freed.items() if slots > 0)
        async with self._pass:
            try:
                if ledger.queued:
                    self._head.forget()
                elif ledger.stored_queued:
                    self._head.add([QueuedStep(*step) for step in ledger.stored_queued.items()])
                leased = await self._place(tx, targets, len(queued))
                settled = all_here and queued <= leased.step_ids | leased.left.keys()
                yield Placed(leased.dispatches, settled=settled)
            except BaseException:
                self._head.forget()
                raise
            if leased.planned:
                with once_committed():
                    self._go_on(leased)

    async def _place(self, tx: Tx, targets: Sequence[UUID], queued: int) -> _Leased:
        try:
            agents = await claims.free_slots(tx, targets)
            if not agents:
                return _NOTHING
            planned = await self._head.plan(tx, agents, self._links.connected(), self._pools, anew=False)
            return await self._claim(tx, planned)
        except Exception as error:
            # What was reported must not be lost because of what waits.
            _log.exception("placing_failed", queued=queued)
            raise PlacingFailed from error

    async def _claim(self, tx: Tx, planned: Plan) -> _Leased:
        if not planned.assignments:
            return _NOTHING
        rows = await claims.claim(tx, [(new_id(), step, agent) for step, agent in planned.assignments])
        claimed = {row["step_run_id"] for row in rows}
        left = {step: agent for step, agent in planned.assignments if step not in claimed}
        served = {agent for step, agent in planned.assignments if step in claimed}
        dispatches = await self._store.dispatches(tx, rows)
        crashpoint("claim.before_commit")
        return _Leased(len(planned.assignments), claimed, dispatches, left, served)

    def _go_on(self, leased: _Leased) -> None:
        """Let another pass follow where this one may have left something that could be placed."""
        self._count_leased(len(leased.step_ids))
        contested = []
        if leased.left:
            # Where an agent got nothing, it may be the agent that was locked, by its heartbeat, and not the step run.
            contested = [step for step, agent in leased.left.items() if agent in leased.served or step in self._left]
            self._head.forget(contested)
            asyncio.get_running_loop().call_later(LOCKED_SECONDS, self._bell.ring)
        if leased.planned >= MOST_READ or contested:
            self._bell.ring()
        self._left = leased.left.keys()

    async def fetch(self, agent_id: UUID, wanted: int, wait_seconds: float) -> list[Dispatch]:
        """Return up to `wanted` step runs for an agent that pulls, waiting for the first at most `wait_seconds`.

        Leases that it has not started come first: those that found no place in an answer yet, then those it was given.
        What one message does not hold stays leased, for its next fetch.
        """
        async with self._store.database.transaction() as tx:
            again = await self._leased_before(tx, agent_id, wanted)
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
            crashpoint("fetch.leased")
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
        """Take a step run back that an agent will not run; it waits, longer each time, before it is placed again.

        One that is refused again and again fails: nobody is to wait for it for ever.
        """

        async def decide(tx: Tx, ledger: Ledger) -> None:
            step_id = await claims.step_of(tx, lease_id, agent_id)
            if step_id is None:
                return
            await load_steps(tx, ledger, [step_id])
            step = ledger.steps[step_id]
            if step.lease is not None and step.lease.id == lease_id and step.status is StepStatus.QUEUED:
                times = await refusals.times_refused(tx, step_id)
                if times < len(REFUSED_SECONDS):
                    delay = REFUSED_SECONDS[times]
                    ledger.lose(step, message, agent_gone=False, delay_seconds=delay, lease_end=refusals.REFUSED)
                else:
                    failure = (
                        f"refused by every agent that was asked, {times + 1} times: {message or 'no reason given'}"
                    )
                    ledger.fail_waiting(step, failure, FailureReason.INTERNAL)

        await self._store.change(decide)

    async def _leased_before(self, tx: Tx, agent_id: UUID, wanted: int) -> list[Dispatch]:
        """Return the first portion of what is leased to an agent that pulls and not started; no more than that is read."""
        sizes = [(row["id"], row["size"]) for row in await claims.unstarted(tx, [agent_id])]
        sizes.sort(key=lambda lease: lease[0] in self._handed_out)
        found: list[Dispatch] = []
        room = LARGEST_PORTION
        # Again only where something cannot be sent at all: what comes behind it takes its place.
        while sizes and room > 0 and len(found) < wanted:
            leases = leases_within(sizes[: wanted - len(found)], room)
            del sizes[: len(leases)]
            read = await self._store.dispatches(tx, await claims.first_unsent(tx, leases))
            read.sort(key=lambda dispatch: leases.index(dispatch.lease_id))
            room -= sum(map(self._store.form.size, read))
            found += read
        return self._portion(found, wanted)

    async def _answer_with_leases(self, tx: Tx, demands: Sequence[_Demand]) -> list[_Demand]:
        """Answer agents that pull with what was leased to them since: the next steps of their jobs.

        Return the demands that are for new work. Of what is leased only that is read which these answers may hold, and
        no more than `claims.LARGEST_READ`; who has to wait for the rest gets it with the next pass, and nothing newer.
        """
        if not demands:
            return []
        asking = Counter(demand.agent_id for demand in demands)
        rows = await claims.unstarted(tx, list(asking))
        self._handed_out &= {row["id"] for row in rows}
        fresh: dict[UUID, list[tuple[UUID, int]]] = {}
        for row in rows:
            if row["id"] not in self._handed_out:
                fresh.setdefault(row["agent_id"], []).append((row["id"], row["size"]))
        if not fresh:
            return list(demands)
        # A portion may be one step run that is larger than others are.
        wanted = [leases_within(sizes, asking[agent_id] * LARGEST_STEP_RUN) for agent_id, sizes in fresh.items()]
        read = await claims.first_unsent(tx, [lease_id for leases in wanted for lease_id in leases])
        self._deliver(await self._store.dispatches(tx, read), demands)
        known = Counter(row["agent_id"] for row in read)
        unread = {agent_id for agent_id, sizes in fresh.items() if known[agent_id] < len(sizes)}
        waiting = [demand for demand in demands if not demand.answer.done()]
        if any(demand.agent_id in unread for demand in waiting):
            if len(waiting) < len(demands):
                self._bell.ring()
            else:  # nothing of what was read could be sent: it fails first
                asyncio.get_running_loop().call_later(LOCKED_SECONDS, self._bell.ring)
        return [demand for demand in waiting if demand.agent_id not in unread]

    async def _look_for_new_work(self, tx: Tx) -> None:
        if self._bell.look_for_new_work():
            self._learn(await claims.selectors_after(tx, self._last_selector, self._passed))
            self._head.forget()

    def _learn(self, selectors: Mapping[int, Selector]) -> None:
        """Keep selectors that became known, and the ids below them that were passed over: not committed, or never."""
        last = max(self._last_selector, *selectors, 0)
        self._passed = [identity for identity in self._passed if identity not in selectors]
        self._passed += [identity for identity in range(self._last_selector + 1, last) if identity not in selectors]
        self._passed = self._passed[-MOST_PASSED:]
        self._last_selector = last
        self._pools.learn(selectors)

    def _deliver(self, dispatches: Sequence[Dispatch], demands: Sequence[_Demand]) -> None:
        pulled: dict[UUID, list[Dispatch]] = {demand.agent_id: [] for demand in demands}
        for dispatch in dispatches:
            if dispatch.agent_id in pulled:
                pulled[dispatch.agent_id].append(dispatch)
        for demand in demands:
            found = pulled[demand.agent_id]
            given = self._portion(found, demand.wanted)
            pulled[demand.agent_id] = found[len(given) :]
            if given and not demand.answer.done():
                demand.answer.set_result(given)
                self._handed_out |= {dispatch.lease_id for dispatch in given}
        self._links.dispatch([dispatch for dispatch in dispatches if dispatch.agent_id not in pulled])

    def _portion(self, dispatches: Sequence[Dispatch], wanted: int) -> list[Dispatch]:
        """Return the first ones that one message holds, `wanted` at most."""
        return next(portions(dispatches, wanted, self._store.form.size), [])


def _limit(agents: Sequence[AgentSlots], demands: Sequence[_Demand]) -> list[AgentSlots]:
    """Cut the room of agents that pull to what they asked for."""
    wanted: dict[UUID, int] = {}
    for demand in demands:
        wanted[demand.agent_id] = wanted.get(demand.agent_id, 0) + demand.wanted
    return [
        replace(agent, free=wanted[agent.id]) if agent.free > wanted.get(agent.id, agent.free) else agent
        for agent in agents
    ]
