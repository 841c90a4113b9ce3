"""Loading and writing a ledger: what is locked, and what a write does that comes too late."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asyncpg.pool import PoolConnectionProxy

from arcentra_server.db import execution, execution_write
from arcentra_server.db.engine import Tx, new_id
from arcentra_server.domain.errors import InvalidTransition, WriteConflict
from arcentra_server.domain.ledger import Ledger
from arcentra_server.domain.states import RunStatus, StepStatus
from tests.support.world import World


@pytest.fixture
async def world(dsn: str) -> AsyncIterator[World]:
    async with World(dsn) as world:
        yield world
        await world.check()


def _ledger() -> Ledger:
    return Ledger(new_id, lambda _, __: True)


async def test_run_is_loaded_whole_as_far_as_it_is_unfinished(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(". .. | .")
    await world.server.schedule()
    await world.end(await world.begin(agent))
    ledger = _ledger()
    async with world.database.transaction() as tx:
        state = await execution.load_run(tx, ledger, run.id)
        assert await execution.load_run(tx, ledger, run.pipeline_id) is None
    assert state is not None
    assert (len(ledger.jobs), len(ledger.stages)) == (3, 2)
    assert all(not step.status.terminal for step in ledger.steps.values())


async def test_stage_knows_of_a_wall_in_an_earlier_one_that_is_not_loaded(world: World) -> None:
    agent = await world.agent("x", capacity=9)
    run = await world.start(". . | . | .[when=a]")
    await world.server.schedule()
    first, second = world.take(agent)
    for dispatch in (first, second):
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    await world.end(first)
    await world.sql(
        "UPDATE job_runs SET walled = true WHERE id = (SELECT job_run_id FROM step_runs WHERE id = $1)",
        first.step_run_id,
    )
    await world.end(second)
    assert await run.states() == "S S x x"


async def test_stages_that_end_together_are_each_looked_back_at_once(world: World) -> None:
    """Of each stage only those before it are asked for of which it is not known yet."""
    agent = await world.agent("x")
    run = await world.start(". |" + "|".join([".[when=n]"] * 12) + "| .")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    looked: list[tuple[int, int]] = []
    fetch = PoolConnectionProxy.fetch

    async def counting(self: Tx, query: str, *values: Any, **more: Any) -> Any:
        if query == execution._BEFORE:
            looked.append((values[1], values[2]))
        return await fetch(self, query, *values, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PoolConnectionProxy, "fetch", counting)
        await world.end(dispatch)
    assert looked == [(index, index + 1) for index in range(13)]
    assert await run.states() == "S " + "x " * 12 + "Q"


async def test_two_changes_of_a_run_come_one_after_the_other(world: World) -> None:
    run = await world.start(".")
    entered, order = asyncio.Event(), []

    async def first(tx: Tx, ledger: Ledger) -> None:
        await execution.load_run(tx, ledger, run.id)
        entered.set()
        while not await tx.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            pass  # the other one is on its way to the lock
        order.append("first")

    async def second(tx: Tx, ledger: Ledger) -> None:
        await entered.wait()
        await execution.load_run(tx, ledger, run.id)
        order.append("second")

    await asyncio.gather(world.server.store.change(first), world.server.store.change(second))
    assert order == ["first", "second"]


async def test_step_that_is_not_as_it_was_loaded_is_not_written(world: World) -> None:
    run = await world.start(".")
    step_id = await run.step_id("a1")

    async def change() -> None:
        ledger = _ledger()
        async with world.database.transaction() as tx:
            await execution.load_steps(tx, ledger, [step_id])
            ledger.cancel_step(ledger.steps[step_id], "")
            ledger.steps_before[step_id] = StepStatus.RUNNING
            await execution_write.write(tx, ledger)

    with pytest.raises(WriteConflict):
        await change()
    assert await world.value("SELECT status FROM step_runs WHERE id = $1", step_id) == "QUEUED"


async def test_states_are_written_by_a_plan_that_is_made_once(world: World) -> None:
    step_ids = [await (await world.start(".")).step_id("a1") for _ in range(12)]
    async with world.database.transaction() as tx:
        for step_id in step_ids:
            ledger = _ledger()
            await execution.load_steps(tx, ledger, [step_id])
            ledger.cancel_step(ledger.steps[step_id], "")
            await execution_write.write(tx, ledger)
        [plans] = await tx.fetch(
            "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement LIKE 'WITH steps AS%'"
        )
    # PostgreSQL makes five for what it gets before it compares them with one for all.
    assert (plans["custom_plans"], plans["generic_plans"]) == (5, 7)


async def test_change_that_meets_a_claim_is_made_again(world: World) -> None:
    await world.agent("x")
    run = await world.start(".")
    step_id = await run.step_id("a1")
    tries = 0

    async def decide(tx: Tx, ledger: Ledger) -> None:
        nonlocal tries
        tries += 1
        await execution.load_steps(tx, ledger, [step_id])
        if tries == 1:
            assert await world.server.schedule() == 1
        ledger.cancel_step(ledger.steps[step_id], "late")

    await world.server.store.change(decide)
    assert (tries, await run.states()) == (2, "C")
    assert await world.value("SELECT end_reason FROM leases") == "CANCELLED"
    assert len(world.server.links.cancels) == 1


async def test_change_that_always_conflicts_gives_up(world: World) -> None:
    tries = 0

    async def decide(_: Tx, __: Ledger) -> None:
        nonlocal tries
        tries += 1
        raise WriteConflict("always")

    with pytest.raises(WriteConflict):
        await world.server.store.change(decide)
    assert tries == 5


async def test_refused_change_leaves_nothing_behind(world: World) -> None:
    run = await world.start(". .")

    async def decide(tx: Tx, ledger: Ledger) -> None:
        state = await execution.load_run(tx, ledger, run.id)
        assert state is not None
        ledger.stop_run(state, "enough")
        raise InvalidTransition("after all")

    with pytest.raises(InvalidTransition):
        await world.server.store.change(decide)
    assert (await run.states(), await run.status()) == ("Q Q", RunStatus.PENDING)
    assert world.server.links.cancels == []


async def test_changes_of_many_runs_in_any_order_do_not_block_each_other(world: World) -> None:
    pipeline = await world.pipeline(". | .")
    runs = [await world.trigger(pipeline) for _ in range(12)]
    steps = [await run.step_id("a1") for run in runs]

    async def cancel(chosen: list[int]) -> None:
        async def decide(tx: Tx, ledger: Ledger) -> None:
            await execution.load_steps(tx, ledger, [steps[number] for number in chosen])
            for number in chosen:
                if not ledger.steps[steps[number]].status.terminal:
                    ledger.cancel_step(ledger.steps[steps[number]], "")

        await world.server.store.change(decide)

    await asyncio.gather(*(cancel(order) for order in ([*range(12)], [*range(11, -1, -1)], [5, 0, 11], [11, 6])))
    assert {await run.status() for run in runs} == {RunStatus.CANCELLED}
