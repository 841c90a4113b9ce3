"""The queries of a scheduler's pass, one transaction beside another."""

from collections.abc import AsyncIterator, Mapping, Sequence
from uuid import UUID

import pytest

from arcentra_server.db import claims
from arcentra_server.db.engine import Database, Tx, new_id
from arcentra_server.domain.states import StepStatus
from tests.support import factories

SELECTOR = 1


class Queue:
    """Steps in the queue."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def fill(self, tx: Tx, number: int, *, agent: UUID | None = None, selector: int = SELECTOR) -> list[UUID]:
        run = await factories.run(tx, await factories.pipeline(tx), total_jobs=number)
        steps = []
        for _ in range(number):
            job = await factories.job(tx, run)
            step = await factories.step(tx, job, status=StepStatus.QUEUED)
            await tx.execute(
                "INSERT INTO step_queue (step_run_id, selector_id, run_id, agent_id) VALUES ($1, $2, $3, $4)",
                step,
                selector,
                run,
                agent,
            )
            steps.append(step)
        return steps


@pytest.fixture
async def queue(dsn: str) -> AsyncIterator[Queue]:
    async with Database(dsn) as database:
        yield Queue(database)


async def _heads(
    tx: Tx, agents: Sequence[UUID] = (), limit: int = 100, rooms: Mapping[int, int] | None = None
) -> list[UUID]:
    heads = await claims.lock_heads(tx, {SELECTOR: 100} if rooms is None else rooms, agents, limit)
    return [step.step_run_id for step in heads]


async def test_what_one_pass_has_locked_another_passes_over(queue: Queue) -> None:
    async with queue.database.transaction() as tx:
        steps = await queue.fill(tx, 6)
    async with queue.database.transaction() as one, queue.database.transaction() as two:
        first = await _heads(one, limit=4)
        second = await _heads(two, limit=4)
    assert (len(first), len(second)) == (4, 2)
    assert {*first, *second} == set(steps)


async def test_each_selector_gives_what_its_agents_have_room_for(queue: Queue) -> None:
    async with queue.database.transaction() as tx:
        await queue.fill(tx, 6)
        other = await queue.fill(tx, 3, selector=2)
        heads = await _heads(tx, rooms={SELECTOR: 2, 2: 5})
        assert (len(heads), set(heads) >= set(other)) == (5, True)


async def test_order_is_priority_then_age_and_bound_steps_first(queue: Queue) -> None:
    async with queue.database.transaction() as tx:
        agent = await factories.agent(tx)
        [old], [new], [urgent], [bound] = [await queue.fill(tx, 1) for _ in range(3)] + [
            await queue.fill(tx, 1, agent=agent)
        ]
        await tx.execute("UPDATE step_queue SET priority = 5 WHERE step_run_id = $1", urgent)
        oldest = sorted([old, new], key=str)
        assert await _heads(tx, [agent]) == [bound, urgent, *oldest]
        assert await _heads(tx, [new_id()]) == [urgent, *oldest]
        assert await _heads(tx, limit=1) == [urgent]


async def test_what_is_held_delayed_or_of_another_selector_is_not_a_head(queue: Queue) -> None:
    async with queue.database.transaction() as tx:
        held, delayed = await queue.fill(tx, 2)
        [other] = await queue.fill(tx, 1, selector=2)
        await tx.execute("UPDATE step_queue SET held = true WHERE step_run_id = $1", held)
        await tx.execute(
            "UPDATE step_queue SET ready_at = clock_timestamp() + interval '5 s' WHERE step_run_id = $1", delayed
        )
        assert await _heads(tx) == []
        assert await _heads(tx, rooms={1: 5, 2: 5}) == [other]


async def test_claim_takes_only_what_is_still_queued(queue: Queue) -> None:
    async with queue.database.transaction() as tx:
        agent = await factories.agent(tx)
        one, gone = await queue.fill(tx, 2)
        await tx.execute("DELETE FROM step_queue WHERE step_run_id = $1", gone)
        rows = await claims.claim(tx, [(new_id(), one, agent), (new_id(), gone, agent)])
        assert [row["step_run_id"] for row in rows] == [one]
        assert await tx.fetchval("SELECT count(*) FROM step_queue") == 0
        assert [row["step_run_id"] for row in await claims.unacknowledged(tx, [agent])] == [one]


async def test_free_slots_are_what_leases_leave(queue: Queue) -> None:
    async with queue.database.transaction() as tx:
        busy, idle, gone = [await factories.agent(tx, labels={"os": "linux"}) for _ in range(3)]
        await tx.execute(
            """UPDATE agents SET capacity = 2, server_labels = '{"os": "bsd"}',
                                 lease_until = clock_timestamp() + interval '1 min'"""
        )
        late = await factories.agent(tx)
        await tx.execute("UPDATE agents SET lease_until = clock_timestamp() - interval '1 s' WHERE id = $1", late)
        await tx.execute("UPDATE agents SET deleted_at = clock_timestamp() WHERE id = $1", gone)
        one, two = await queue.fill(tx, 2)
        lease, _ = await factories.lease(tx, one, busy), await factories.lease(tx, two, busy)
        everyone = [busy, idle, gone, late]
        assert [(slots.id, slots.free) for slots in await claims.free_slots(tx, everyone)] == [(idle, 2)]
        await tx.execute("UPDATE leases SET ended_at = clock_timestamp(), end_reason = 'lost' WHERE id = $1", lease)
        slots = await claims.free_slots(tx, everyone)
        assert {(slot.id, slot.free) for slot in slots} == {(busy, 1), (idle, 2)}
        assert {slot.labels["os"] for slot in slots} == {"bsd"}
