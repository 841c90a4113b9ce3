"""Events of agents: each stored exactly once, in the order of its agent's seq, acknowledged after the commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from arcentra_server.crashpoint import crashpoint
from arcentra_server.db import agent_events, logs
from arcentra_server.db.batcher import Batcher
from arcentra_server.db.engine import Database, Tx
from arcentra_server.db.inflight import InFlight
from arcentra_server.domain.event_order import AgentEvent, EventStream, decide
from arcentra_server.domain.ingest import IngestResult, Tally, Verdict

_COMMIT_BATCHES = 64
_Batch = tuple[UUID, Sequence[AgentEvent]]


class AgentEventService:
    """See the module; `domain/event_order.py` has the rules. `run` must be running for `append` to resolve."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batcher: Batcher[_Batch, list[Verdict]] = Batcher(self._commit, largest=_COMMIT_BATCHES)

    async def run(self) -> None:
        """Commit what is handed in until `close`."""
        await self._batcher.run()

    def close(self) -> None:
        """Take nothing more."""
        self._batcher.close()

    async def append(self, agent_id: UUID, batches: AsyncIterator[Sequence[AgentEvent]]) -> IngestResult:
        """Store batches of an agent as they come; return what became of them once all of it is committed."""
        tally = Tally()

        def take(verdicts: list[Verdict]) -> None:
            for verdict in verdicts:
                tally.add(verdict)

        async with InFlight(take) as inflight:
            async for batch in batches:
                size = sum(event.size for event in batch)
                await inflight.add(self._batcher.submit((agent_id, batch)), size)
        crashpoint("event.before_ack")
        async with self._database.transaction() as tx:
            return tally.result(await agent_events.last_seq(tx, agent_id))

    async def _commit(self, batches: Sequence[_Batch]) -> list[list[Verdict]]:
        async with self._database.transaction() as tx:
            last = await agent_events.lock(tx, {agent_id for agent_id, _ in batches})
            streams = {agent_id: EventStream(seq) for agent_id, seq in last.items()}
            pairs = [(agent_id, event.event_id) for agent_id, batch in batches for event in batch if event.event_id]
            for agent_id, event_id in await agent_events.known(tx, pairs):
                streams[agent_id].known.add(event_id)
            held = await _held(tx, batches)
            decisions = [
                (agent_id, decide(streams[agent_id], batch, held.get(agent_id, frozenset())))
                for agent_id, batch in batches
            ]
            await agent_events.store(
                tx,
                [(agent_id, event) for agent_id, decision in decisions for event in decision.store],
                [(agent_id, seq) for agent_id, decision in decisions for seq in decision.passed],
            )
            crashpoint("event.before_commit")
        crashpoint("event.after_commit")
        return [decision.verdicts for _, decision in decisions]


async def _held(tx: Tx, batches: Sequence[_Batch]) -> dict[UUID, set[UUID]]:
    steps = {event.step for _, batch in batches for event in batch} - {None}
    held: dict[UUID, set[UUID]] = {}
    if steps:
        for step_id, agent_id in await logs.holders(tx, [step for step in steps if step]):
            held.setdefault(agent_id, set()).add(step_id)
    return held
