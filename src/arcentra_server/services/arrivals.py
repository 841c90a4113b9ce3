"""Agents that come back: what each has missed. Those that come together, as after a restart, are told together."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from uuid import UUID

from arcentra_server.db import claims
from arcentra_server.db.batcher import ARRIVAL_PAUSE, Batcher
from arcentra_server.db.engine import Row, Tx
from arcentra_server.db.execution import load_steps
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.domain.execution import CancelCommand, Dispatch
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import StepStatus

LARGEST_BATCH = 500  # agents that catch up in one change: the runs of what they lost are locked together


@dataclass(frozen=True, slots=True)
class CatchUp:
    """What an agent that connects has missed."""

    dispatches: list[Dispatch]
    cancels: list[CancelCommand]
    released: list[UUID]


@dataclass(frozen=True, slots=True)
class _Arrival:
    """What an agent says that connects; see `ArrivalService.catch_up`."""

    agent_id: UUID
    running: AbstractSet[UUID]
    kept_jobs: Sequence[UUID]
    names_steps: bool
    opened_at: float


class ArrivalService:
    """See the module. `run` must be running for `catch_up` to resolve."""

    def __init__(self, store: ExecutionStore) -> None:
        self._store = store
        self._batcher: Batcher[_Arrival, CatchUp] = Batcher(self._catch_up, largest=LARGEST_BATCH)

    async def catch_up(
        self,
        agent_id: UUID,
        running: Sequence[UUID],
        kept_jobs: Sequence[UUID],
        *,
        names_steps: bool,
        opened_at: float | None = None,
    ) -> CatchUp:
        """Answer what an agent that connects has missed: keep or kill for each step it runs, and what it should have.

        Args:
            agent_id: The agent.
            running: The step runs whose process it has.
            kept_jobs: The job runs whose workspace it has.
            names_steps: Whether `running` is complete; a started step that it leaves out is then lost.
            opened_at: When its channel was opened, in the time of the event loop; None for just now. What was leased
                since, and started through another server, could not be in `running`.
        """
        opened_at = asyncio.get_running_loop().time() if opened_at is None else opened_at
        arrival = _Arrival(agent_id, set(running), kept_jobs, names_steps, opened_at)
        return await self._batcher.submit(arrival, pause=ARRIVAL_PAUSE)

    async def released(self, agent_id: UUID, kept_jobs: Sequence[UUID]) -> list[UUID]:
        """Return those of the job runs whose workspace an agent has that need it no more."""
        async with self._store.database.transaction() as tx:
            return [job_id for _, job_id in await claims.finished_jobs(tx, [(agent_id, job) for job in kept_jobs])]

    async def run(self) -> None:
        """Let agents catch up until `close`."""
        await self._batcher.run()

    def close(self) -> None:
        self._batcher.close()

    async def _catch_up(self, arrivals: Sequence[_Arrival]) -> list[CatchUp]:
        agent_ids = list({arrival.agent_id for arrival in arrivals})
        kept = {(arrival.agent_id, job_id) for arrival in arrivals for job_id in arrival.kept_jobs}

        async def decide(tx: Tx, ledger: Ledger) -> list[CatchUp]:
            now = asyncio.get_running_loop().time()
            held: defaultdict[UUID, dict[UUID, Row]] = defaultdict(dict)
            for row in await claims.held(tx, agent_ids):
                held[row["agent_id"]][row["step_run_id"]] = row
            lost = [step for arrival in arrivals for step in _lost(arrival, held[arrival.agent_id], now)]
            if lost:
                await load_steps(tx, ledger, lost)
                for step_id in lost:
                    ledger.lose(ledger.steps[step_id], "the agent was restarted and does not have the step any more")
            again: defaultdict[UUID, list[Dispatch]] = defaultdict(list)
            for dispatch in await self._store.dispatches(tx, await claims.unacknowledged(tx, agent_ids)):
                again[dispatch.agent_id].append(dispatch)
            gone, finished = set(lost), set(await claims.finished_jobs(tx, list(kept)))
            return [
                CatchUp(
                    again[arrival.agent_id],
                    _cancels(arrival, held[arrival.agent_id], gone),
                    [job_id for job_id in arrival.kept_jobs if (arrival.agent_id, job_id) in finished],
                )
                for arrival in arrivals
            ]

        return await self._store.change(decide)


def _lost(arrival: _Arrival, held: Mapping[UUID, Row], now: float) -> list[UUID]:
    """Return the steps that an agent had started and does not have any more."""
    if not arrival.names_steps:
        return []
    open_for = now - arrival.opened_at
    started = [step for step, row in held.items() if row["status"] == StepStatus.RUNNING and row["age"] > open_for]
    return [step for step in started if step not in arrival.running]


def _cancels(arrival: _Arrival, held: Mapping[UUID, Row], lost: AbstractSet[UUID]) -> list[CancelCommand]:
    """Return what an agent is to end: what it runs without a lease, and what somebody asked for."""
    stop = [
        CancelCommand(arrival.agent_id, step_id, "lease lost")
        for step_id in arrival.running
        # Its own message may be older than another of the same agent, which lost a step that this one names.
        if step_id not in held or step_id in lost
    ]
    asked = [
        CancelCommand(arrival.agent_id, step_id, row["cancel_reason"])
        for step_id, row in held.items()
        if row["cancel_cause"] and step_id not in lost
    ]
    return stop + asked
