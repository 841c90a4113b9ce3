"""The batch writer of the lifecycle limit: one task commits all that arrived while the previous commit ran."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import asyncpg

from arcentra_api.agent.v1 import agent_pb2
from benchmarks.limits import store
from benchmarks.limits.store import NewStep, Report, Status


@dataclass(slots=True, eq=False)
class Outbox:
    """What waits to be sent on the stream of one agent; its writer task sends all of it in one message."""

    agent_id: str
    dispatches: list[agent_pb2.StepRun] = field(default_factory=list)
    acked_sequence: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class Batch:
    """Everything that shares one commit."""

    reports: list[Report] = field(default_factory=list)
    acks: dict[Outbox, int] = field(default_factory=dict)
    new_steps: list[NewStep] = field(default_factory=list)
    triggers: list[asyncio.Future[None]] = field(default_factory=list)


class BatchWriter:
    """Owns the one connection that writes, and the count of free slots of each connected agent."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection
        self._pending = Batch()
        self._wake = asyncio.Event()
        self._outboxes: dict[str, Outbox] = {}
        self._free: dict[str, int] = {}
        self._ends_job: dict[str, tuple[str, bool]] = {}
        self._may_be_ready = False

    def connect(self, outbox: Outbox, slots: int) -> None:
        """Start giving work to an agent with `slots` free slots."""
        self._outboxes[outbox.agent_id] = outbox
        self._free[outbox.agent_id] = slots
        self._wake.set()

    def disconnect(self, outbox: Outbox) -> None:
        """Stop giving work to an agent."""
        del self._outboxes[outbox.agent_id], self._free[outbox.agent_id]

    def report(self, outbox: Outbox, sequence: int, reports: Iterable[Report]) -> None:
        """Take the reports of one message; the outbox learns `sequence` once they are committed."""
        self._pending.reports.extend(reports)
        self._pending.acks[outbox] = sequence
        self._wake.set()

    def trigger(self, steps: Sequence[NewStep]) -> asyncio.Future[None]:
        """Take new step runs; the future is done once they are committed (and given out, where a slot is free)."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.new_steps.extend(steps)
        self._pending.triggers.append(future)
        self._wake.set()
        return future

    async def run(self) -> None:
        """Commit batch after batch, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._pending = self._pending, Batch()
            self._may_be_ready = self._may_be_ready or bool(batch.new_steps)
            await self._commit(batch)

    async def _commit(self, batch: Batch) -> None:
        for report in batch.reports:
            self._release(report)
        slots = self._free_slots() if self._may_be_ready else []
        if batch.new_steps:
            async with self._connection.transaction():
                await store.add(self._connection, batch.new_steps)
                rows = await store.apply(self._connection, batch.reports, slots)
        elif batch.reports or slots:
            rows = await store.apply(self._connection, batch.reports, slots)
        else:
            rows = []
        self._give_out(rows, slots)
        for outbox, sequence in batch.acks.items():
            outbox.acked_sequence = sequence
            outbox.wake.set()
        for future in batch.triggers:
            future.set_result(None)

    def _release(self, report: Report) -> None:
        """A job that goes on keeps its slot; one that ended frees it."""
        if report.status is Status.SUCCESS and (ended := self._ends_job.pop(report.step_run_id, None)) is not None:
            agent_id, last_of_job = ended
            if last_of_job and agent_id in self._free:
                self._free[agent_id] += 1

    def _free_slots(self) -> list[str]:
        return [agent_id for agent_id, free in self._free.items() for _ in range(free)]

    def _give_out(self, rows: Sequence[asyncpg.Record], slots: Sequence[str]) -> None:
        first_steps = 0
        for row in rows:
            step = agent_pb2.StepRun.FromString(row["spec"])
            step.command_id = row["command_id"]
            step.lease_token = row["lease_token"]
            agent_id = row["agent_id"]
            first_steps += step.step_index == 0
            outbox = self._outboxes.get(agent_id)
            if outbox is None:  # gone while the commit ran; giving its work to another is a rule
                continue
            self._free[agent_id] -= step.step_index == 0
            self._ends_job[step.step_run_id] = (agent_id, row["last_of_job"])
            outbox.dispatches.append(step)
            outbox.wake.set()
        self._may_be_ready = self._may_be_ready and first_steps == len(slots)
