"""A database that is there and gives something up: what the reaper still does, and whom it holds for late."""

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import pytest

from arcentra_server.db import deadlines
from arcentra_server.db.engine import Tx
from arcentra_server.domain.errors import GivenUp, NoRoom
from arcentra_server.domain.states import AgentStatus
from tests.support.postgres import Databases
from tests.support.world import LEASE_SECONDS, Run, World

NO_ROOM, TOO_LONG = "53100", "57014"
_BEATS = "NEW.last_contact_at IS DISTINCT FROM OLD.last_contact_at"
_OTHERS = f"NOT ({_BEATS})"
_OVERDUE_RUNS = "UPDATE pipeline_runs SET started_at = clock_timestamp() - interval '2 h', timeout_ms = 60000"


@pytest.fixture
async def world(databases: Databases) -> AsyncIterator[World]:
    """A server whose database the test may change the schema of."""
    async with databases.clone() as dsn, World(dsn) as world:
        yield world
        await world.check()


async def _silence(world: World, agents: Sequence[UUID]) -> None:
    query = "UPDATE agents SET lease_until = clock_timestamp() - interval '1 s' WHERE id = ANY($1)"
    await world.sql(query, list(agents))


async def _lapse(world: World, agent: UUID) -> None:
    await _silence(world, [agent])
    await world.server.reaper.run_once()


async def _states(runs: Sequence[Run]) -> str:
    return "".join([await run.states() for run in runs])


async def _give_up(world: World, code: str, writes: str = "true") -> None:
    """Let the database give up those writes to agents, for want of room or of time."""
    await world.sql(
        f"""CREATE OR REPLACE FUNCTION give_up() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN IF {writes} THEN RAISE EXCEPTION 'given up' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$"""
    )
    await world.sql("CREATE OR REPLACE TRIGGER give_up BEFORE UPDATE ON agents FOR EACH ROW EXECUTE FUNCTION give_up()")


async def _recover(world: World) -> None:
    await world.sql("DROP FUNCTION give_up CASCADE")


async def _given_up(world: World) -> set[type[Exception]]:
    """Run a pass of which something is given up; return the errors."""
    with pytest.raises(ExceptionGroup) as raised:
        await world.server.reaper.run_once()
    return set(map(type, raised.value.exceptions))


async def test_rule_that_always_takes_too_long_keeps_nothing_else_from_being_done(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(tx: Tx, *_: object) -> list[UUID]:
        async with tx.transaction():
            await tx.execute("SET LOCAL statement_timeout = '50ms'")
            await tx.execute("SELECT pg_sleep(60)")
        return []

    monkeypatch.setattr(deadlines, "orphaned_steps", slow)
    agents, runs = await world.busy(2)
    waiting = await world.start(".")
    await world.sql(f"{_OVERDUE_RUNS} WHERE id = $1", waiting.id)
    for agent in agents:
        await _silence(world, [agent])
        assert await _given_up(world) == {GivenUp}
        assert (await world.server.fleet.get(agent)).status is AgentStatus.OFFLINE
    assert await _states(runs) == "FF"
    assert (await waiting.status()).terminal


@pytest.mark.parametrize("code", [NO_ROOM, TOO_LONG])
async def test_agent_whose_heartbeat_is_given_up_is_not_late_and_others_are(world: World, code: str) -> None:
    (alive, dead), runs = await world.busy(2)
    await _silence(world, [alive, dead])
    await _give_up(world, code, _BEATS)
    with pytest.raises(GivenUp):
        await world.server.agents.heartbeat(alive)
    await world.server.reaper.run_once()
    assert await _states(runs) == "RF"
    await _recover(world)
    await world.server.agents.heartbeat(alive)
    await _lapse(world, alive)
    assert await _states(runs) == "FF", "one that was written is no reason to wait any more"


async def test_agent_that_falls_silent_after_its_heartbeat_was_given_up_is_lost(world: World) -> None:
    [agent], [run] = await world.busy(1)
    await _silence(world, [agent])
    await _give_up(world, TOO_LONG, _BEATS)
    with pytest.raises(GivenUp):
        await world.server.agents.heartbeat(agent)
    await world.server.reaper.run_once()
    assert await run.states() == "R"
    world.server.agents._unwritten[agent] -= LEASE_SECONDS
    await world.server.reaper.run_once()
    assert await run.states() == "F"


async def test_agent_whose_heartbeat_waits_for_its_commit_is_not_late(world: World) -> None:
    [agent], [run] = await world.busy(1)
    await _silence(world, [agent])
    async with world.database.transaction() as tx:
        await tx.execute("SELECT FROM agents FOR UPDATE")
        beat = world.server.agents.heartbeat(agent)
        await world.server.reaper.run_once()
        assert await run.states() == "R"
    await beat
    await world.server.reaper.run_once()
    assert await run.states() == "R"


async def test_nobody_is_late_after_the_database_had_no_room_for_contact(world: World) -> None:
    """Neither are agents of other servers, of whose heartbeats this one knows nothing."""
    agents, runs = await world.busy(2)
    waiting = await world.start(".")
    await _silence(world, agents)
    await _give_up(world, NO_ROOM)
    assert await _given_up(world) == {NoRoom}
    await world.sql(f"{_OVERDUE_RUNS} WHERE id = $1", waiting.id)
    assert await _given_up(world) == {NoRoom}
    assert (await waiting.status()).terminal, "what there is room for is done"
    await _recover(world)
    await world.server.reaper.run_once()
    assert await _states(runs) == "RR"
    await _lapse(world, agents[0])
    assert await _states(runs) == "FR", "they are forgiven once"


async def test_loss_that_takes_too_long_is_only_late(world: World) -> None:
    [agent], [run] = await world.busy(1)
    await _silence(world, [agent])
    await _give_up(world, TOO_LONG, _OTHERS)
    assert await _given_up(world) == {GivenUp}
    assert await run.states() == "R"
    await _recover(world)
    await world.server.reaper.run_once()
    assert await run.states() == "F"


async def test_nobody_is_lost_before_all_are_forgiven_an_outage(world: World) -> None:
    [agent], [run] = await world.busy(1)
    await _silence(world, [agent])
    await _give_up(world, TOO_LONG, "NEW.lease_until > OLD.lease_until")
    world.server.reaper._was_away = True
    assert await _given_up(world) == {GivenUp}
    assert await run.states() == "R"
    await _recover(world)
    await world.server.reaper.run_once()
    assert await run.states() == "R"
    await _lapse(world, agent)
    assert await run.states() == "F"
