"""Agents that come back: what each has missed. Those that come together, as after a restart, are told together.

Together they are only read, which waits for nobody. An agent that lost steps has them ended in a change of its own, in
the task of its channel: it may have to wait for a run, which keeps nobody else out. What was said on a channel that has
gone loses nothing: the agent may have got the step since, through another server.

Of very large steps only the oldest are read at once, for all that come together: the others are sent by `OrderService`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from arcentra_server.db import claims
from arcentra_server.db.batcher import ARRIVAL_PAUSE, Batcher
from arcentra_server.db.engine import Row, Tx
from arcentra_server.db.execution import load_steps
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.domain.errors import Unavailable
from arcentra_server.domain.execution import CancelCommand, Dispatch
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import StepStatus

LARGEST_BATCH = 500  # agents of which what they missed is read together


@dataclass(frozen=True, slots=True)
class CatchUp:
    """What an agent that connects has missed; of very large steps the oldest."""

    dispatches: list[Dispatch]
    cancels: list[CancelCommand]
    released: list[UUID]


@dataclass(frozen=True, slots=True)
class _Arrival:
    """What an agent says that connects; see `ArrivalService.catch_up`."""

    agent_id: UUID
    running: AbstractSet[UUID]
    kept_jobs: Sequence[UUID]
    started: AbstractSet[UUID] | None


_Held = dict[UUID, dict[UUID, Row]]  # what is leased to each agent, by step run; see `claims.held`


class ArrivalService:
    """See the module. `run` must be running for `catch_up` to resolve."""

    def __init__(self, store: ExecutionStore) -> None:
        self._store = store
        self._batcher: Batcher[_Arrival, CatchUp | None] = Batcher(self._look, largest=LARGEST_BATCH)

    async def catch_up(
        self,
        agent_id: UUID,
        running: Sequence[UUID],
        kept_jobs: Sequence[UUID],
        *,
        started: AbstractSet[UUID] | None,
        late: bool = False,
    ) -> CatchUp:
        """Answer what an agent that connects has missed: keep or kill for each step it runs, and what it should have.

        Args:
            agent_id: The agent.
            running: The step runs whose process it has.
            kept_jobs: The job runs whose workspace it has.
            started: The leases whose steps it had started when it was admitted, before its message was read; None where
                `running` is not complete. A step of these that still runs and is not in `running` is lost. Of one that
                was started since and is not in `running` it cannot be told: the process that the agent was before may
                have reported it last of all, or the agent itself, through another server, after it wrote this message.
                It is to come again, and is then admitted with that step. No clock is asked: that of the database may be
                set back.
            late: `started` was found so long after the message was written that the agent may have started something
                through another server in between: it is to come again rather than lose anything.

        When it is cancelled nothing is lost, but for a commit that was under way.

        Raises:
            WriteConflict: a run of which it lost a step is held by another writer, again and again.
            Unavailable: the database is away, or the agent is to come again: it seems to have lost a step and is `late`,
                or a step was started that it may not know.
        """
        arrival = _Arrival(agent_id, set(running), kept_jobs, started)
        news = await self._batcher.submit(arrival, pause=ARRIVAL_PAUSE)
        if news is None and late:
            raise Unavailable("it took too long to let the agent in to tell what it has lost: come again")
        return await self._store.change(partial(self._lose, arrival)) if news is None else news

    async def released(self, agent_id: UUID, kept_jobs: Sequence[UUID]) -> list[UUID]:
        """Return those of the job runs whose workspace an agent has that need it no more."""
        async with self._store.database.transaction() as tx:
            return [job_id for _, job_id in await claims.finished_jobs(tx, [(agent_id, job) for job in kept_jobs])]

    async def run(self) -> None:
        """Let agents catch up until `close`."""
        await self._batcher.run()

    def close(self) -> None:
        self._batcher.close()

    async def _look(self, arrivals: Sequence[_Arrival]) -> list[CatchUp | None]:
        """Return what each has missed; None for one that may have lost something, which is left to a change of its own."""
        async with self._store.database.transaction(snapshot=True) as tx:
            held = await _held(tx, arrivals)
            losers = {id(arrival) for arrival in arrivals if _unnamed(arrival, held[arrival.agent_id])}
            news = await self._news(tx, arrivals, held)
        # A step whose secret is gone is failed by the scheduler's next pass: here all would wait for its run.
        return [None if id(arrival) in losers else one for arrival, one in zip(arrivals, news, strict=True)]

    async def _lose(self, arrival: _Arrival, tx: Tx, ledger: Ledger) -> CatchUp:
        held = await _held(tx, [arrival])
        if lost := _lost(arrival, held[arrival.agent_id]):
            await load_steps(tx, ledger, lost)
            for step_id in lost:
                ledger.lose(ledger.steps[step_id], "the agent was restarted and does not have the step any more")
                del held[arrival.agent_id][step_id]
        [news] = await self._news(tx, [arrival], held)
        # Read last: what was not started when the news were read is sent with them.
        if set(_unnamed(arrival, (await _held(tx, [arrival]))[arrival.agent_id])).difference(lost):
            raise Unavailable("a step was started while the agent was let in: come again, and tell whether you have it")
        return news

    async def _news(self, tx: Tx, arrivals: Sequence[_Arrival], held: _Held) -> list[CatchUp]:
        kept = {(arrival.agent_id, job_id) for arrival in arrivals for job_id in arrival.kept_jobs}
        again: defaultdict[UUID, list[Dispatch]] = defaultdict(list)
        for dispatch in await self._store.dispatches(tx, await claims.first_unacknowledged(tx, list(held))):
            again[dispatch.agent_id].append(dispatch)
        finished = set(await claims.finished_jobs(tx, list(kept)))
        return [
            CatchUp(
                again[arrival.agent_id],
                _cancels(arrival, held[arrival.agent_id]),
                [job_id for job_id in arrival.kept_jobs if (arrival.agent_id, job_id) in finished],
            )
            for arrival in arrivals
        ]


async def _held(tx: Tx, arrivals: Sequence[_Arrival]) -> _Held:
    held: _Held = {arrival.agent_id: {} for arrival in arrivals}
    for row in await claims.held(tx, list(held)):
        held[row["agent_id"]][row["step_run_id"]] = row
    return held


def _unnamed(arrival: _Arrival, held: Mapping[UUID, Row]) -> list[UUID]:
    """Return the steps that run, as far as is known, and that an agent which names its steps does not name."""
    if arrival.started is None:
        return []
    return [step for step, row in held.items() if row["status"] == StepStatus.RUNNING and step not in arrival.running]


def _lost(arrival: _Arrival, held: Mapping[UUID, Row]) -> list[UUID]:
    """Return the steps that an agent had started and does not have any more."""
    started = arrival.started or frozenset[UUID]()
    return [step for step in _unnamed(arrival, held) if held[step]["lease_id"] in started]


def _cancels(arrival: _Arrival, held: Mapping[UUID, Row]) -> list[CancelCommand]:
    """Return what an agent is to end: what it runs without a lease, and what somebody asked for."""
    stop = [
        CancelCommand(arrival.agent_id, step_id, "lease lost") for step_id in arrival.running if step_id not in held
    ]
    asked = [
        CancelCommand(arrival.agent_id, step_id, row["cancel_reason"])
        for step_id, row in held.items()
        if row["cancel_cause"]
    ]
    return stop + asked
