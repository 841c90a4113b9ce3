"""Agents that come together, as after a restart of the server: each is told its own, and they share what it costs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar
from uuid import UUID

import pytest

from arcentra_server.db.engine import Database, Tx
from arcentra_server.domain.errors import NotAdmitted, Unauthenticated, Unavailable
from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.identity import Role, TokenKind
from arcentra_server.domain.states import StepStatus
from arcentra_server.services.agents import AgentFacts
from tests.support.processes import until
from tests.support.world import World, step_name

AGENTS = 40
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


class CountedDatabase(Database):
    """A database that counts its transactions."""

    count: ClassVar[int] = 0

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False) -> AsyncIterator[Tx]:
        CountedDatabase.count += 1
        async with super().transaction(snapshot=snapshot) as tx:
            yield tx


@pytest.fixture
async def counted(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A world whose transactions are counted."""
    monkeypatch.setattr("tests.support.world.Database", CountedDatabase)
    async with World(dsn) as world:
        yield world


async def _leased(world: World, name: str) -> tuple[UUID, Dispatch]:
    """Let an agent join that has a step of its own."""
    agent = await world.agent(name, 2)
    await world.start(".. | .")
    await world.server.schedule()
    return agent, world.take_one(agent)


@asynccontextmanager
async def _run_held(world: World, dispatch: Dispatch) -> AsyncIterator[None]:
    """Let another writer hold the run of a step."""
    query = "SELECT FROM pipeline_runs WHERE id = (SELECT run_id FROM step_runs WHERE id = $1) FOR NO KEY UPDATE"
    async with world.database.transaction() as tx:
        await tx.execute(query, dispatch.step_run_id)
        yield


async def test_agents_that_come_together_are_each_told_what_they_missed(world: World) -> None:
    (back, kept), (restarted, gone), (told, cancelled), (new, unstarted) = [
        await _leased(world, name) for name in "abcd"
    ]
    for dispatch in (kept, gone, cancelled):
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    world.server.links.online.clear()
    await world.server.steps.cancel(cancelled.step_run_id, "not wanted")
    [job, other] = [(await world.server.steps.get(one.step_run_id)).job_id for one in (kept, gone)]
    news = await asyncio.gather(
        world.come_back(back, [kept.step_run_id, gone.step_run_id], [job, other]),
        world.come_back(restarted, [], [other]),
        world.come_back(told, [cancelled.step_run_id]),
        world.come_back(new),
    )
    assert [one.dispatches for one in news] == [[], [], [], [unstarted]]
    cancels = [[(command.agent_id, command.step_run_id, command.reason) for command in one.cancels] for one in news]
    assert cancels == [
        [(back, gone.step_run_id, "lease lost")],
        [],
        [(told, cancelled.step_run_id, "not wanted")],
        [],
    ]
    assert [one.released for one in news] == [[other], [], [], []]
    states = [(await world.server.steps.get(one.step_run_id)).status for one in (kept, gone, cancelled, unstarted)]
    assert states == [StepStatus.RUNNING, StepStatus.FAILED, StepStatus.RUNNING, StepStatus.QUEUED]


async def test_step_that_one_of_two_messages_of_an_agent_loses_is_to_be_killed_for_the_other(world: World) -> None:
    """Its channel broke after the first message and it came again, before either was dealt with."""
    (first, _), (agent, leased) = await _leased(world, "a"), await _leased(world, "b")
    assert await world.report(leased, StepStatus.RUNNING) is None
    started, catch_up = await world.started(agent), world.server.arrivals.catch_up
    _, named, unnamed = await asyncio.gather(
        catch_up(first, [], [], started=frozenset()),
        catch_up(agent, [leased.step_run_id], [], started=started),
        catch_up(agent, [], [], started=started),
    )
    assert (named.cancels, unnamed.cancels) == ([], []), "it is told on the channel that it has when the step is lost"
    assert [command.step_run_id for command in world.server.links.cancels] == [leased.step_run_id]
    assert (await world.server.steps.get(leased.step_run_id)).status is StepStatus.FAILED


async def test_message_whose_channel_has_gone_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent got the step again through another server, after this channel broke and before its message was read."""
    monkeypatch.setattr("arcentra_server.services.arrivals.ARRIVAL_PAUSE", 0.5)  # in which the step starts
    (other, _), (agent, leased) = await _leased(world, "a"), await _leased(world, "b")
    catch_up = world.server.arrivals.catch_up
    await world.come_back(other)
    async with asyncio.TaskGroup() as group:
        stale = group.create_task(catch_up(agent, [], [], started={leased.lease_id}))
        await asyncio.sleep(0)
        stale.cancel()
    assert await world.report(leased, StepStatus.RUNNING) is None
    await world.come_back(other)
    assert (await world.server.steps.get(leased.step_run_id)).status is StepStatus.RUNNING


async def test_agent_that_was_let_in_late_comes_again_rather_than_lose_a_step(world: World) -> None:
    """It may have written its message, gone to another server and started the step there, before it was let in."""
    agent, leased = await _leased(world, "a")
    assert await world.report(leased, StepStatus.RUNNING) is None
    catch_up, started = world.server.arrivals.catch_up, await world.started(agent)
    with pytest.raises(Unavailable, match="come again"):
        await catch_up(agent, [], [], started=started, late=True)
    assert (await catch_up(agent, [leased.step_run_id], [], started=started, late=True)).cancels == []
    assert (await world.server.steps.get(leased.step_run_id)).status is StepStatus.RUNNING


async def test_message_whose_channel_goes_while_it_waits_for_a_run_loses_nothing(world: World) -> None:
    (other, _), (agent, leased) = await _leased(world, "a"), await _leased(world, "b")
    assert await world.report(leased, StepStatus.RUNNING) is None
    catch_up = world.server.arrivals.catch_up
    async with _run_held(world, leased), asyncio.TaskGroup() as group:
        stale = group.create_task(catch_up(agent, [], [], started={leased.lease_id}))
        await until(lambda: world.value(_WAITING))
        stale.cancel()
    await world.come_back(other)
    assert (await world.server.steps.get(leased.step_run_id)).status is StepStatus.RUNNING


async def test_run_that_is_held_keeps_only_those_out_that_lost_a_step_of_it(world: World) -> None:
    (other, unstarted), (agent, leased) = await _leased(world, "a"), await _leased(world, "b")
    restarted, gone = await _leased(world, "c")
    for dispatch in (leased, gone):
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    catch_up = world.server.arrivals.catch_up
    async with asyncio.TaskGroup() as group, _run_held(world, leased):
        waits = group.create_task(catch_up(agent, [], [], started={leased.lease_id}))
        await until(lambda: world.value(_WAITING))
        news = await world.come_back(other)
        await world.come_back(restarted)
        assert not waits.done()
    assert news.dispatches == [unstarted]
    assert waits.result().cancels == []
    states = [(await world.server.steps.get(one.step_run_id)).status for one in (leased, gone)]
    assert states == [StepStatus.FAILED, StepStatus.FAILED]


async def test_agents_that_come_together_are_admitted_each_for_itself(world: World) -> None:
    auth, agents = world.server.auth, world.server.agents
    open_token = await auth.issue(TokenKind.REGISTRATION, "any", Role.AGENT)
    guarded = await auth.issue(TokenKind.REGISTRATION, "some", Role.AGENT, needs_approval=True)
    joined = [await agents.register(token, AgentFacts("x")) for token in (open_token, guarded, open_token)]
    tokens = [joined[0].token, joined[1].token, joined[2].token, joined[2].token[:-4] + "AAAA"]
    calls = [auth.authenticate(text, "peer") for text in tokens]
    *callers, refused = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(refused, Unauthenticated)
    found = [caller for caller in callers if not isinstance(caller, BaseException)]
    assert [caller.agent_id for caller in found] == [one.agent_id for one in joined]
    assert [caller.pending for caller in found] == [False, True, False]
    await agents.unregister(joined[2].agent_id, "")
    good, pending, gone, other = await asyncio.gather(
        *(agents.admit(one.agent_id, caller.token_id) for one, caller in zip(joined, found, strict=True)),
        agents.admit(joined[0].agent_id, found[1].token_id),
        return_exceptions=True,
    )
    assert not isinstance(good, BaseException)
    assert isinstance(pending, NotAdmitted)
    assert isinstance(gone, Unauthenticated)
    assert isinstance(other, Unauthenticated), "the token is another agent's"


async def test_what_agents_cost_that_come_together_does_not_grow_with_their_number(counted: World) -> None:
    server = counted.server
    registration = await server.auth.issue(TokenKind.REGISTRATION, "any", Role.AGENT)
    joined = [await server.agents.register(registration, AgentFacts(str(number))) for number in range(AGENTS)]

    async def come(agent_id: UUID, token: str) -> None:
        caller = await server.auth.authenticate(token, "peer")
        briefing = await server.agents.admit(agent_id, caller.token_id)
        await server.agents.heartbeat(agent_id)
        await server.arrivals.catch_up(agent_id, [], [], started=briefing.started)

    before = CountedDatabase.count
    await asyncio.gather(*(come(one.agent_id, one.token) for one in joined))
    assert CountedDatabase.count - before < AGENTS


async def test_pass_with_nothing_in_the_queue_takes_note_of_new_work(world: World) -> None:
    """What is new is then known, so that a change that queues it may place it at once."""
    agent = await world.agent("x")
    await world.server.schedule()
    world.server.store.announce_new_work()
    assert world.server.bell.new_work_is_due
    await world.server.dispatch.run_once()
    assert not world.server.bell.new_work_is_due
    await world.start(".")
    await world.server.schedule()
    assert step_name(world.take_one(agent)) == "a1"
