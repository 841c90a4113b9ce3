"""What is read of the queue: beside all of it in order, whatever the number of classes; and what is kept for later."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Collection, Sequence
from uuid import UUID

import pytest

from arcentra_server.db import queue_head
from arcentra_server.db.engine import Database, Tx, new_id
from arcentra_server.db.queue_head import QueueHead
from arcentra_server.domain.labels import LabelSet
from arcentra_server.domain.selectors import ANY_AGENT, Operator, Selector, Term
from arcentra_server.scheduling.plan import AgentSlots, Plan, QueuedStep, Snapshot, Takes, plan
from arcentra_server.scheduling.pools import Pools
from tests.support.queue import fill

ANYONE = LabelSet({})
EVERYONE = Pools({1: ANY_AGENT, 2: ANY_AGENT})
X, Y = UUID(int=1), UUID(int=2)


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    async with Database(dsn) as database:
        yield database


def wants(value: int) -> Selector:
    return Selector((Term("kind", Operator.IN, (str(value),)),))


async def read(
    tx: Tx,
    *agents: AgentSlots,
    head: QueueHead | None = None,
    pools: Pools | None = None,
    reachable: Collection[UUID] = (),
) -> Plan:
    return await (head or QueueHead()).plan(tx, agents, reachable or [agent.id for agent in agents], pools or EVERYONE)


def placed(planned: Plan) -> list[UUID]:
    return [step for step, _ in planned.assignments]


async def test_order_is_priority_then_share_then_age_and_what_is_bound_comes_first(database: Database) -> None:
    async with database.transaction() as tx:
        [late] = await fill(tx, 1, share=2)
        old, young = await fill(tx, 2, share=1, selector=2)
        [urgent] = await fill(tx, 1, priority=5, share=9)
        [bound] = await fill(tx, 1, agent=X, share=99)
        everything = [bound, urgent, *sorted([old, young]), late]
        assert placed(await read(tx, AgentSlots(X, ANYONE, 9))) == everything
        assert placed(await read(tx, AgentSlots(X, ANYONE, 3))) == everything[:3]
        assert placed(await read(tx, AgentSlots(Y, ANYONE, 9))) == everything[1:]
        assert placed(await read(tx, AgentSlots(X, ANYONE, 9, Takes.BOUND))) == [bound]


async def test_what_is_held_delayed_or_of_a_selector_that_matches_nobody_is_not_read(database: Database) -> None:
    async with database.transaction() as tx:
        held, delayed = await fill(tx, 2)
        [other] = await fill(tx, 1, selector=2)
        await tx.execute("UPDATE step_queue SET held = true WHERE step_run_id = $1", held)
        await tx.execute(
            "UPDATE step_queue SET ready_at = clock_timestamp() + interval '5 s' WHERE step_run_id = $1", delayed
        )
        slots = AgentSlots(X, ANYONE, 9)
        assert placed(await read(tx, slots, pools=Pools({1: ANY_AGENT, 2: wants(1)}))) == []
        assert placed(await read(tx, slots)) == [other]


@pytest.mark.parametrize("few", [0, 32], ids=["the front first", "class by class"])
async def test_places_as_if_it_had_read_all(database: Database, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    """Long and short classes, agents that only some want, urgent ones: read in parts, and planned as if read whole."""
    monkeypatch.setattr(queue_head, "FEW_CLASSES", few)
    monkeypatch.setattr(queue_head, "LEAST_OF_THE_FRONT", 5)
    monkeypatch.setattr(queue_head, "LEAST_OF_A_CLASS", 2)
    source = random.Random(few)  # noqa: S311 - a fixed seed
    async with database.transaction() as tx:
        for _ in range(40):
            selector = source.choice([1] * 9 + [*range(2, 11)])
            number, priority, share = source.randrange(1, 8), source.choice([0, 0, 0, 3]), source.randrange(60)
            await fill(tx, number, selector=selector, priority=priority, share=share)
        rows = await tx.fetch(
            "SELECT step_run_id, selector_id FROM step_queue ORDER BY priority DESC, share, run_id, step_run_id"
        )
        queue = [QueuedStep(row["step_run_id"], row["selector_id"]) for row in rows]
        pools = Pools({number: wants(number) for number in range(1, 11)})
        for _ in range(60):
            kinds = [source.choice([1, 1, 1, *range(1, 11)]) for _ in range(source.randrange(1, 6))]
            agents = [
                AgentSlots(UUID(int=number), LabelSet({"kind": str(kind)}), source.randrange(1, 9))
                for number, kind in enumerate(kinds)
            ]
            made = await read(tx, *agents, pools=pools)
            assert made.assignments == plan(Snapshot(queue, agents, pools), 0.0).assignments


async def _claim(tx: Tx, planned: Plan) -> list[UUID]:
    await tx.execute("DELETE FROM step_queue WHERE step_run_id = ANY($1)", placed(planned))
    return placed(planned)


class Counted:
    """A transaction that counts the statements."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.count = 0

    async def fetch(self, query: str, *values: object) -> Sequence[object]:
        self.count += 1
        rows: Sequence[object] = await self._tx.fetch(query, *values)
        return rows


async def test_long_queue_is_not_read_again_for_every_pass(database: Database) -> None:
    async with database.transaction() as tx:
        steps = await fill(tx, 120)
        head, counted, pools, served = QueueHead(), Counted(tx), Pools({1: ANY_AGENT}), []
        for _ in range(60):
            planned = await head.plan(counted, [AgentSlots(X, ANYONE, 2)], [X], pools)  # type: ignore[arg-type]
            served += await _claim(tx, planned)
        assert served == sorted(steps)
        assert counted.count <= 10


async def test_what_is_kept_gives_way_when_something_is_queued(database: Database) -> None:
    async with database.transaction() as tx:
        head = QueueHead()
        first, second, third, *_ = sorted(await fill(tx, 9))
        slot = AgentSlots(X, ANYONE, 1)
        assert await _claim(tx, await read(tx, slot, head=head)) == [first]
        assert await _claim(tx, await read(tx, slot, head=head)) == [second]
        [urgent] = await fill(tx, 1, priority=1)
        head.forget()
        assert await _claim(tx, await read(tx, slot, head=head)) == [urgent]
        assert await _claim(tx, await read(tx, slot, head=head)) == [third]


async def test_what_comes_into_an_empty_queue_is_not_read_and_what_comes_behind_others_is(database: Database) -> None:
    async with database.transaction() as tx:
        head, counted, slot = QueueHead(), Counted(tx), AgentSlots(X, ANYONE, 1)

        async def serve() -> list[UUID]:
            planned = await head.plan(counted, [slot], [X], EVERYONE, anew=False)  # type: ignore[arg-type]
            return await _claim(tx, planned)

        assert await serve() == []
        assert counted.count == 1
        first, second = sorted(await fill(tx, 2))
        head.add([QueuedStep(first, 1), QueuedStep(second, 1)])
        assert await serve() == [first]
        assert counted.count == 1
        [urgent] = await fill(tx, 1, priority=1)
        head.add([QueuedStep(urgent, 1)])
        assert [await serve() for _ in range(3)] == [[urgent], [second], []]
        assert counted.count > 1
        [other] = await fill(tx, 1)  # by another server
        head.forget()
        head.add([])
        assert await serve() == [other]


async def test_what_is_kept_leaves_no_slot_idle(database: Database) -> None:
    """Steps that came unheard, for agents that had no room before, or more than were kept."""
    async with database.transaction() as tx:
        head, pools = QueueHead(), Pools({1: wants(1), 2: wants(2)})
        one, two = AgentSlots(X, LabelSet({"kind": "1"}), 1), AgentSlots(Y, LabelSet({"kind": "2"}), 1)
        await fill(tx, 4)
        await fill(tx, 2, selector=2)
        both = [X, Y]
        for agents, count in (([one], 1), ([one], 1), ([one, two], 2), ([two], 1), ([two], 0), ([one], 1), ([one], 0)):
            assert len(await _claim(tx, await read(tx, *agents, head=head, pools=pools, reachable=both))) == count
        await fill(tx, 1, selector=2)
        assert len(await _claim(tx, await read(tx, one, two, head=head, pools=pools, reachable=both))) == 1


async def test_what_is_kept_is_no_more_than_is_known_to_come_next(database: Database) -> None:
    """Behind the last that was read of one class there may be more of it, which comes before what was read of others."""
    async with database.transaction() as tx:
        steps = [(await fill(tx, 1, share=share))[0] for share in (1, 2, 3)]
        steps += await fill(tx, 2, share=4, selector=2)
        head = QueueHead()
        served = [await _claim(tx, await read(tx, AgentSlots(X, ANYONE, 1), head=head)) for _ in steps]
        assert [step for [step] in served] == steps


async def test_agent_of_another_pool_is_not_served_from_what_was_read_for_others(database: Database) -> None:
    async with database.transaction() as tx:
        head, pools = QueueHead(), Pools({1: ANY_AGENT, 2: wants(2)})
        await fill(tx, 9, share=5)
        [urgent] = await fill(tx, 1, share=1, selector=2)
        one, two = AgentSlots(X, LabelSet({"kind": "1"}), 1), AgentSlots(Y, LabelSet({"kind": "2"}), 1)
        for _ in range(2):
            await _claim(tx, await read(tx, one, head=head, pools=pools, reachable=[X, Y]))
        assert placed(await read(tx, two, head=head, pools=pools, reachable=[X, Y])) == [urgent]


async def test_what_is_bound_to_an_agent_that_comes_is_read(database: Database) -> None:
    async with database.transaction() as tx:
        head = QueueHead()
        await fill(tx, 9)
        [bound] = await fill(tx, 1, agent=Y)
        for _ in range(2):
            await _claim(tx, await read(tx, AgentSlots(X, ANYONE, 1), head=head))
        assert bound in placed(await read(tx, AgentSlots(Y, ANYONE, 1), head=head))


async def test_what_another_server_has_is_passed_over_once(database: Database) -> None:
    async with database.transaction() as tx:
        head = QueueHead()
        first, second, *_ = sorted(await fill(tx, 4))
        slot = AgentSlots(X, ANYONE, 1)
        assert placed(await read(tx, slot, head=head)) == [first]
        head.forget([first, new_id()])
        assert placed(await read(tx, slot, head=head)) == [second]
        head.forget()
        assert placed(await read(tx, slot, head=head)) == [first]
