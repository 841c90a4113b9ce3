"""Agents join, are heard of, and leave."""

import asyncio
import os
from datetime import timedelta
from uuid import UUID

import pytest

from arcentra_server.domain.errors import NotFound, Unauthenticated
from arcentra_server.domain.execution import CancelCommand
from arcentra_server.domain.identity import Role, TokenKind
from arcentra_server.domain.states import AgentStatus, RunStatus, StepStatus
from arcentra_server.domain.token_maker import TokenMaker
from arcentra_server.services.agents import AgentFacts, AgentService
from tests.support.world import World, step_name

UNKNOWN = UUID(int=7)
_LATER = """UPDATE agents SET lease_until = lease_until - $1::interval, spared_at = spared_at - $1::interval,
                              last_contact_at = last_contact_at - $1::interval"""


async def _token(world: World, max_uses: int | None = None, ttl: timedelta | None = None) -> str:
    return await world.server.auth.issue(
        TokenKind.REGISTRATION, "join", Role.AGENT, labels={"pool": "a"}, max_uses=max_uses, ttl=ttl
    )


async def test_agent_joins_and_comes_back(world: World) -> None:
    facts = AgentFacts("x", "192.0.2.1", "linux", "amd64", "1.0", 4, {"os": "linux"})
    joined = await world.server.agents.register(await _token(world), facts)
    caller = await world.server.auth.authenticate(joined.token, "peer")
    assert (caller.agent_id, caller.role, caller.name) == (joined.agent_id, Role.AGENT, "x")
    again = await world.server.agents.register_again(joined.agent_id, joined.token, AgentFacts("x2", capacity=2))
    assert (again.agent_id, again.token) == (joined.agent_id, joined.token)
    [row] = await world.server.fleet.list_all()
    assert (row.name, row.capacity, row.labels, row.status) == ("x2", 2, {"pool": "a"}, AgentStatus.OFFLINE)
    nameless = await world.server.agents.register(await _token(world), AgentFacts(""))
    assert [row.name.startswith("agent-") for row in await world.server.fleet.list_all()] == [True, False]
    assert nameless.agent_id != joined.agent_id
    with pytest.raises(NotFound):
        await world.server.agents.register_again(UNKNOWN, "", facts)


async def test_registration_token_is_used_up(world: World) -> None:
    once = await _token(world, max_uses=1)
    await world.server.agents.register(once, AgentFacts("x"))
    for bad in (once, once[:-3] + "abc", "arc_reg_unknown_secret", "nothing", ""):
        with pytest.raises(Unauthenticated, match=r"^invalid registration token$"):
            await world.server.agents.register(bad, AgentFacts("y"))
    assert len(await world.server.fleet.list_all()) == 1


async def test_registration_token_expires_and_is_revoked(world: World) -> None:
    expired, revoked = await _token(world, ttl=timedelta(seconds=-1)), await _token(world)
    await world.sql("UPDATE tokens SET revoked_at = clock_timestamp() WHERE id = $1", revoked.split("_")[2])
    user = await world.server.auth.issue(TokenKind.USER, "admin", Role.ADMIN)
    for bad in (expired, revoked, user):
        with pytest.raises(Unauthenticated):
            await world.server.agents.register(bad, AgentFacts("x"))
    await world.server.agents.register(await _token(world, ttl=timedelta(hours=1)), AgentFacts("x"))


async def test_uses_are_counted_exactly_when_many_register_at_once(world: World) -> None:
    token = await _token(world, max_uses=3)
    done = await asyncio.gather(
        *(world.server.agents.register(token, AgentFacts(f"x{number}")) for number in range(12)),
        return_exceptions=True,
    )
    refused = [error for error in done if isinstance(error, BaseException)]
    assert (len(done) - len(refused), {type(error) for error in refused}) == (3, {Unauthenticated})
    assert len(await world.server.fleet.list_all()) == 3


async def test_heartbeats_tell_what_an_agent_is_doing(world: World) -> None:
    agent = await world.agent("x", 2)
    await world.start(". .")

    async def heard() -> AgentStatus:
        await world.server.agents.heartbeat(agent)
        [row] = await world.server.fleet.list_all()
        return row.status

    assert await heard() is AgentStatus.IDLE
    await world.server.schedule()
    assert await heard() is AgentStatus.BUSY
    one, two = world.take(agent)
    for dispatch in (one, two):
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    await world.end(one)
    assert await heard() is AgentStatus.ONLINE
    await world.end(two)
    assert await heard() is AgentStatus.IDLE
    told = await world.sql("SELECT status FROM events WHERE resource = 'agent' ORDER BY id")
    assert [row["status"] for row in told] == ["OFFLINE", "IDLE", "BUSY", "ONLINE", "IDLE"]


async def test_heartbeats_of_many_agents_and_of_none(world: World) -> None:
    agents = [await world.agent(f"x{number}", online=False) for number in range(5)]
    await world.sql("UPDATE agents SET lease_until = clock_timestamp() - interval '1 s'")
    await asyncio.gather(*(world.server.agents.heartbeat(agent) for agent in [*agents, UNKNOWN, *agents]))
    assert await world.value("SELECT count(*) FROM agents WHERE lease_until > clock_timestamp()") == 5


async def test_heartbeat_that_cannot_be_stored_fails_alone(world: World) -> None:
    agents = [await world.agent(f"x{number}", online=False) for number in range(3)]
    capacities = (2, 0, 3)
    beats = [world.server.agents.heartbeat(*pair, {"n": "1"}) for pair in zip(agents, capacities, strict=True)]
    done = await asyncio.gather(*beats, return_exceptions=True)
    assert [isinstance(answer, Exception) for answer in done] == [False, True, False]
    rows = await world.server.fleet.list_all()
    assert [(row.capacity, row.metrics) for row in rows] == [(2, {"n": "1"}), (1, {}), (3, {"n": "1"})]


async def test_heartbeats_of_one_agent_that_come_together_are_one(world: World) -> None:
    agent = await world.agent("x")
    await asyncio.gather(
        world.server.agents.heartbeat(agent, 3, {"cpu": "1"}, draining=True),
        world.server.agents.heartbeat(agent),
        world.server.agents.heartbeat(agent, None, {"cpu": "2"}),
    )
    row = await world.server.fleet.get(agent)
    assert (row.capacity, row.metrics, row.draining) == (3, {"cpu": "2"}, True)
    await world.server.agents.heartbeat(agent, draining=False)
    assert not (await world.server.fleet.get(agent)).draining


async def test_server_start_gives_every_agent_a_full_lease(world: World) -> None:
    await world.agent("x")
    gone = await world.agent("y")
    await world.server.agents.register(await _token(world), AgentFacts("never heard of"))
    await world.server.agents.unregister(gone, "")
    await world.sql("UPDATE agents SET lease_until = clock_timestamp() - interval '1 h' WHERE lease_until IS NOT NULL")
    assert await world.server.agents.rearm() == 1
    await world.server.reaper.run_once()
    assert await world.value("SELECT status FROM agents WHERE name = 'x'") == "IDLE"


async def test_each_server_start_gives_a_full_lease_heard_of_or_not(world: World) -> None:
    """The second one too when the first ended before its agents were back."""
    agent = await world.agent("x")
    run = await world.start(".")
    await world.server.schedule()
    await world.begin(agent)
    for _ in range(2):
        await world.sql(_LATER, timedelta(hours=1))
        assert await world.server.agents.rearm() == 1
        await world.server.reaper.run_once()
        assert await run.states() == "R"


async def test_lease_of_a_server_start_is_not_the_one_of_a_silence(world: World) -> None:
    agents = [await world.agent(f"x{number}", online=False) for number in range(3)]
    runs = [await world.start(".") for _ in agents]
    for agent in agents:
        [dispatch] = await world.server.dispatch.fetch(agent, 1, 0)
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    await world.server.agents.rearm()
    for expected in ("R", "F"):
        await world.sql(_LATER, timedelta(hours=1))
        await world.server.reaper.run_once()
        assert [await run.states() for run in runs] == [expected] * 3


async def _waits_for_a_lock(world: World) -> None:
    """Return when some transaction waits for another."""
    while True:
        if await world.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            return
        await asyncio.sleep(0.01)


async def test_server_start_locks_agents_in_the_order_of_all_others(world: World) -> None:
    lowest, *others = sorted([await world.agent(f"x{number}") for number in range(5)])
    await world.sql("UPDATE agents SET name = 'moved' WHERE id = $1", lowest)  # behind the others, by where its row is
    async with asyncio.TaskGroup() as group, world.database.transaction() as tx:
        await tx.execute("SELECT 1 FROM agents WHERE id = $1 FOR NO KEY UPDATE", lowest)
        start = group.create_task(world.server.agents.rearm())
        await _waits_for_a_lock(world)
        locked = await tx.fetch("SELECT 1 FROM agents WHERE id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED", others)
        assert len(locked) == 4
    assert await start == 5


async def test_server_start_goes_on_after_a_deadlock(world: World) -> None:
    low, high = sorted([await world.agent("x"), await world.agent("y")])
    async with asyncio.TaskGroup() as group, world.database.transaction() as tx:
        await tx.execute("SELECT 1 FROM agents WHERE id = $1 FOR NO KEY UPDATE", high)
        start = group.create_task(world.server.agents.rearm())
        await _waits_for_a_lock(world)
        await tx.execute("SELECT 1 FROM agents WHERE id = $1 FOR NO KEY UPDATE", low)
    assert await start == 2


async def test_metrics_are_kept(world: World) -> None:
    agent = await world.agent("x")
    await world.server.agents.heartbeat(agent, None, {"cpu": "5"})
    [row] = await world.server.fleet.list_all()
    assert row.metrics == {"cpu": "5"}


# Credentials


async def _joined(world: World) -> tuple[UUID, str]:
    joined = await world.server.agents.register(await _token(world), AgentFacts("x"))
    return joined.agent_id, (await world.server.auth.authenticate(joined.token, "peer")).token_id


async def test_credential_of_an_agent_ends_and_is_to_be_rotated_at_half_time(world: World) -> None:
    joined = await world.server.agents.register(await _token(world), AgentFacts("x"))
    agent, token_id = joined.agent_id, (await world.server.auth.authenticate(joined.token, "peer")).token_id
    assert joined.expires_at is not None
    left = await world.value("SELECT $1::timestamptz - clock_timestamp()", joined.expires_at)
    assert timedelta(hours=23) < left < timedelta(hours=25)
    again = await world.server.agents.register_again(agent, joined.token, AgentFacts("x"))
    assert again.expires_at == joined.expires_at
    rotate_in = (await world.server.agents.admit(agent, token_id)).rotate_in
    assert rotate_in is not None
    assert 11 * 3_600 < rotate_in < 13 * 3_600
    older = (
        "UPDATE tokens SET created_at = created_at - $2::interval, expires_at = expires_at - $2::interval WHERE id = $1"
    )
    await world.sql(older, token_id, timedelta(hours=13))
    rotate_in = (await world.server.agents.admit(agent, token_id)).rotate_in
    assert rotate_in is not None
    assert rotate_in < 0
    await world.sql(older, token_id, timedelta(hours=12))
    world.server.auth.forget_agent(agent)
    with pytest.raises(Unauthenticated):
        await world.server.auth.authenticate(joined.token, "peer")


async def test_rotated_credential_is_good_and_the_one_before_for_ten_minutes(world: World) -> None:
    agent, token_id = await _joined(world)
    rotated = await world.server.agents.rotate_credential(agent, token_id)
    caller = await world.server.auth.authenticate(rotated.token, "peer")
    assert (caller.agent_id, caller.role, caller.name) == (agent, Role.AGENT, "x")
    left = await world.value("SELECT $1::timestamptz - clock_timestamp()", rotated.old_expires_at)
    assert timedelta(minutes=9) < left <= timedelta(minutes=10)
    assert rotated.expires_at is not None
    # The old one is good still, for who did not get the answer; rotated again it ends no later.
    rotate_in = (await world.server.agents.admit(agent, token_id)).rotate_in
    again = await world.server.agents.rotate_credential(agent, token_id)
    assert again.old_expires_at <= rotated.old_expires_at
    assert again.token != rotated.token
    assert rotate_in is not None
    assert rotate_in < 600
    assert (await world.server.agents.admit(agent, caller.token_id)).rotate_in is not None


async def test_credentials_that_ended_long_ago_are_forgotten(world: World) -> None:
    agent, token_id = await _joined(world)
    _, other = await _joined(world)
    first = await world.server.agents.rotate_credential(agent, token_id)
    await world.sql(
        "UPDATE tokens SET expires_at = clock_timestamp() - interval '25 h' WHERE id = ANY($1)", [token_id, other]
    )
    caller = await world.server.auth.authenticate(first.token, "peer")
    await world.server.agents.rotate_credential(agent, caller.token_id)
    assert await world.value("SELECT count(*) FROM tokens WHERE agent_id = $1", agent) == 2
    assert await world.value("SELECT count(*) FROM tokens WHERE id = $1", other) == 1


async def test_only_an_own_credential_that_was_not_revoked_is_rotated(world: World) -> None:
    (agent, token_id), (_, of_another) = await _joined(world), await _joined(world)
    with pytest.raises(Unauthenticated):
        await world.server.agents.rotate_credential(agent, of_another)
    await world.server.agents.unregister(agent, "")
    with pytest.raises(Unauthenticated, match=r"^credential revoked$"):
        await world.server.agents.rotate_credential(agent, token_id)


async def test_credential_without_an_end_is_rotated_where_credentials_end(world: World) -> None:
    agent, token_id = await _joined(world)
    await world.sql("UPDATE tokens SET expires_at = NULL WHERE id = $1", token_id)
    assert (await world.server.agents.admit(agent, token_id)).rotate_in == 0
    endless = AgentService(world.server.store, TokenMaker(b"k" * 32, os.urandom), lease_seconds=30, token_hours=0)
    briefing, _ = await endless.brief_without_channel(agent, token_id)
    assert briefing.rotate_in is None
    rotated = await endless.rotate_credential(agent, token_id)
    assert rotated.expires_at is None
    assert (await endless.register(await _token(world), AgentFacts("y"))).expires_at is None


# An agent that holds no channel


async def test_agent_without_a_channel_is_told_what_to_cancel(world: World) -> None:
    (agent, token_id), (idle, idle_token) = await _joined(world), await _joined(world)
    await world.server.agents.heartbeat(agent, 3)
    runs = [await world.start(".") for _ in range(3)]
    dispatches = await world.server.dispatch.fetch(agent, 3, 0)
    for dispatch in dispatches[:2]:
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    wanted = dispatches[0].step_run_id
    await world.server.steps.cancel(wanted, "not wanted")
    for _ in range(2):  # until it obeys
        _, cancels = await world.server.agents.brief_without_channel(agent, token_id)
        assert cancels == [CancelCommand(agent, wanted, "not wanted")]
    assert (await world.server.agents.brief_without_channel(idle, idle_token))[1] == []
    await world.end(dispatches[0], StepStatus.CANCELLED)
    assert (await world.server.agents.brief_without_channel(agent, token_id))[1] == []
    assert sorted([await run.states() for run in runs]) == ["C", "Q", "R"]


# An agent leaves


async def test_agent_that_leaves_loses_its_steps_and_its_token(world: World) -> None:
    joined = await world.server.agents.register(await _token(world), AgentFacts("x", capacity=2))
    agent = joined.agent_id
    world.server.links.online.add(agent)
    await world.server.agents.heartbeat(agent)
    run = await world.start(". . .")
    await world.server.schedule()
    started, waiting = world.take(agent)
    assert await world.report(started, StepStatus.RUNNING) is None
    await world.server.agents.unregister(agent, "maintenance")
    row = await world.server.steps.get(started.step_run_id)
    assert (row.status, row.failure_reason, row.error_message) == (
        StepStatus.FAILED,
        "agent_lost",
        "agent left: maintenance",
    )
    assert (await world.server.steps.get(waiting.step_run_id)).status is StepStatus.QUEUED
    assert await world.server.fleet.list_all() == []
    with pytest.raises(Unauthenticated):
        await world.server.auth.authenticate(joined.token, "peer")
    with pytest.raises(NotFound):
        await world.server.agents.unregister(agent, "")
    world.server.links.online.discard(agent)
    assert len(await world.work(await world.agent("y"))) == 2
    assert await run.status() is RunStatus.FAILED


async def test_agent_that_leaves_loses_what_it_was_given_meanwhile(world: World) -> None:
    """The removal waits for the run of its first step, and meanwhile a second one is given out and started."""
    agent = await world.agent("x", 2)
    first = await world.start(".")
    await world.server.schedule()
    await world.begin(agent)
    second = await world.start(".")
    async with asyncio.TaskGroup() as group, world.database.transaction() as tx:
        await tx.execute("SELECT 1 FROM pipeline_runs WHERE id = $1 FOR NO KEY UPDATE", first.id)
        group.create_task(world.server.agents.unregister(agent, "gone"))
        await _waits_for_a_lock(world)
        assert await world.server.schedule() == 1
        await world.begin(agent)
    assert (await first.states(), await second.states()) == ("F", "F")


async def test_labels_of_an_agent_that_left_are_not_changed(world: World) -> None:
    agent = await world.agent("x")
    await world.server.agents.unregister(agent, "")
    for gone in (agent, UNKNOWN):
        with pytest.raises(NotFound):
            await world.server.agents.update_labels(gone, {"os": "linux"}, merge=True)


async def test_job_that_waits_for_the_agent_that_leaves_ends(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".. | .")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    await world.server.runs.pause(run.id, None, "", "alice")
    await world.end(dispatch)
    assert await run.states() == "SQ P"  # in the queue, for the agent that has the workspace
    await world.server.agents.unregister(agent, "maintenance")
    await world.server.reaper.run_once()
    assert (await run.status()).terminal


async def test_job_whose_agent_left_meanwhile_does_not_wait_for_it(world: World) -> None:
    home, other = await world.agent("x"), await world.agent("y", own="yes")
    world.server.links.online.remove(other)
    run = await world.start(".*.")
    await world.server.schedule()
    await world.end(await world.begin(home))
    world.server.links.online.add(other)
    await world.server.schedule()
    away = await world.begin(other)
    assert step_name(away) == "a2"
    await world.server.agents.unregister(home, "")
    await world.end(away)
    await world.server.reaper.run_once()
    assert (await run.status()).terminal


async def test_tolerated_loss_does_not_go_on_with_the_agent_that_left(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start("?.")
    await world.server.schedule()
    await world.begin(agent)
    await world.server.agents.unregister(agent, "")
    assert world.take(agent) == []
    assert (await run.status()).terminal
