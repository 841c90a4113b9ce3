"""The claim: what it takes of what it is given, and who has room."""

from collections.abc import AsyncIterator

import pytest

from arcentra_server.db import claims
from arcentra_server.db.engine import Database, new_id
from arcentra_server.scheduling.plan import Takes
from tests.support import factories
from tests.support.queue import fill


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    async with Database(dsn) as database:
        yield database


async def test_claim_takes_only_what_is_still_queued(database: Database) -> None:
    async with database.transaction() as tx:
        agent = await factories.agent(tx)
        one, gone, held, delayed = await fill(tx, 4)
        await tx.execute("DELETE FROM step_queue WHERE step_run_id = $1", gone)
        await tx.execute("UPDATE step_queue SET held = true WHERE step_run_id = $1", held)
        await tx.execute(
            "UPDATE step_queue SET ready_at = clock_timestamp() + interval '5 s' WHERE step_run_id = $1", delayed
        )
        rows = await claims.claim(tx, [(new_id(), step, agent) for step in (one, gone, held, delayed)])
        assert [row["step_run_id"] for row in rows] == [one]
        assert await tx.fetchval("SELECT count(*) FROM step_queue") == 2
        assert [row["step_run_id"] for row in await claims.first_unacknowledged(tx, [agent])] == [one]


async def test_what_one_claim_has_another_passes_over(database: Database) -> None:
    async with database.transaction() as tx:
        first, second = [await factories.agent(tx) for _ in range(2)]
        one, two = await fill(tx, 2)
    async with database.transaction() as mine, database.transaction() as theirs:
        assert len(await claims.claim(mine, [(new_id(), one, first)])) == 1
        rows = await claims.claim(theirs, [(new_id(), one, second), (new_id(), two, second)])
        assert [row["step_run_id"] for row in rows] == [two]


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ("UPDATE agents SET drained = true", 1),
        ("UPDATE agents SET draining = true", 1),
        ("UPDATE agents SET disabled = true", 0),
        ("UPDATE agents SET approved = false", 0),
    ],
)
async def test_agent_that_was_taken_out_meanwhile_gets_no_more_than_its_own(
    database: Database, change: str, taken: int
) -> None:
    async with database.transaction() as tx:
        agent = await factories.agent(tx)
        [free], [bound] = await fill(tx, 1), await fill(tx, 1, agent=agent)
        await tx.execute(change)
        rows = await claims.claim(tx, [(new_id(), step, agent) for step in (free, bound)])
        assert [row["step_run_id"] for row in rows] == [bound][:taken]


async def test_free_slots_are_what_leases_leave(database: Database) -> None:
    async with database.transaction() as tx:
        busy, idle, gone = [await factories.agent(tx, labels={"os": "linux"}) for _ in range(3)]
        await tx.execute(
            """UPDATE agents SET capacity = 2, server_labels = '{"os": "bsd"}',
                                 lease_until = clock_timestamp() + interval '1 min'"""
        )
        late = await factories.agent(tx)
        await tx.execute("UPDATE agents SET lease_until = clock_timestamp() - interval '1 s' WHERE id = $1", late)
        await tx.execute("UPDATE agents SET deleted_at = clock_timestamp() WHERE id = $1", gone)
        one, two = await fill(tx, 2)
        lease, _ = await factories.lease(tx, one, busy), await factories.lease(tx, two, busy)
        everyone = [busy, idle, gone, late]
        assert [(slots.id, slots.free) for slots in await claims.free_slots(tx, everyone)] == [(idle, 2)]
        await tx.execute("UPDATE leases SET ended_at = clock_timestamp(), end_reason = 'lost' WHERE id = $1", lease)
        slots = await claims.free_slots(tx, everyone)
        assert {(slot.id, slot.free) for slot in slots} == {(busy, 1), (idle, 2)}
        assert {slot.labels.values["os"] for slot in slots} == {"bsd"}
        assert len({slot.labels for slot in slots}) == 1, "equal labels are one set"


async def test_free_slots_are_of_agents_that_may_get_something(database: Database) -> None:
    async with database.transaction() as tx:
        agents = [await factories.agent(tx) for _ in range(5)]
        await tx.execute(
            """UPDATE agents SET lease_until = clock_timestamp() + interval '1 min', drained = id = $1, draining = id = $2,
                                 disabled = id = $3, approved = id <> $4""",
            *agents[1:],
        )
        slots = {slot.id: slot.takes for slot in await claims.free_slots(tx, agents)}
        assert slots == {agents[0]: Takes.ALL, agents[1]: Takes.BOUND, agents[2]: Takes.BOUND}


@pytest.mark.parametrize("bound", [False, True])
async def test_work_waits_when_something_may_be_placed_now(database: Database, bound: bool) -> None:
    async with database.transaction() as tx:
        agent = await factories.agent(tx) if bound else None
        assert not await claims.work_waits(tx)
        held, _ = await fill(tx, 2, agent=agent)
        assert await claims.work_waits(tx)
        await tx.execute("UPDATE step_queue SET held = true WHERE step_run_id = $1", held)
        assert await claims.work_waits(tx)
        await tx.execute("UPDATE step_queue SET ready_at = clock_timestamp() + interval '1 h' WHERE NOT held")
        assert not await claims.work_waits(tx)
