"""What one server decides about an agent that is connected to another."""

from __future__ import annotations

import pytest

from arcentra_server.domain.execution import CancelCommand
from arcentra_server.domain.states import StepStatus
from arcentra_server.rpc.channels import AgentChannels
from arcentra_server.services.orders import OrderService
from tests.support.world import World

_NOT_JUST_NOW = "UPDATE leases SET created_at = created_at - interval '1 s'"


async def test_cancellation_reaches_the_agent_through_its_server(world: World) -> None:
    here, there = world.server, world.another_server()
    agent = await world.agent("x")
    run = await world.start(".")
    await here.schedule()
    step = await world.begin(agent)
    here.links.online, there.links.online = set(), {agent}
    await here.runs.cancel_job(await run.job_id("a"), "enough")
    assert here.links.cancels == []
    for _ in range(2):  # until it is obeyed
        assert await there.orders.run_once() == 1
        assert there.links.cancels[-1] == CancelCommand(agent, step.step_run_id, "enough")
    await world.end(step, StepStatus.CANCELLED)
    assert await there.orders.run_once() == 0


async def test_cancellation_that_was_lost_with_its_channel_is_sent_again(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.server.schedule()
    step = await world.begin(agent)
    world.server.links.online.discard(agent)
    await world.server.runs.stop(run.id, None, "enough")
    assert world.server.links.cancels == []
    world.server.links.online.add(agent)
    assert await world.server.orders.run_once() == 1
    assert world.server.links.cancels == [CancelCommand(agent, step.step_run_id, "enough")]


async def test_lease_reaches_the_agent_through_its_server_once(world: World) -> None:
    here, there = world.server, world.another_server()
    agent = await world.agent("x")
    await world.start("..")
    await here.schedule()
    step = await world.begin(agent)
    here.links.online, there.links.online = set(), {agent}
    await world.end(step)  # the next step is leased with that
    assert await there.orders.run_once() == 0, "it may be on its way"
    await world.sql(_NOT_JUST_NOW)
    assert await there.orders.run_once() == 1
    [sent] = there.links.sent[agent]
    assert sent.lease_id == await world.value("SELECT id FROM leases WHERE ended_at IS NULL")
    assert await there.orders.run_once() == 0


async def test_lease_whose_start_is_slow_is_not_sent_again(world: World) -> None:
    agent, channels = await world.agent("x"), AgentChannels()
    outbox = channels.open(agent)
    channels.take_dispatches(outbox)
    world.server.links.listener = lambda dispatch: channels.dispatch([dispatch])
    await world.start(".")
    await world.server.schedule()
    orders = OrderService(world.server.store, channels)
    assert await orders.run_once() == 0
    await world.sql(_NOT_JUST_NOW)
    assert await orders.run_once() == 0, "it went out, though nothing was heard of it yet"


async def test_lease_that_was_seen_before_it_was_handed_over_is_sent_once(world: World) -> None:
    agent, channels = await world.agent("x"), AgentChannels()
    outbox = channels.open(agent)
    channels.take_dispatches(outbox)
    await world.start(".")
    await world.server.schedule()
    await world.sql(_NOT_JUST_NOW)
    assert await OrderService(world.server.store, channels).run_once() == 1
    channels.dispatch(world.take(agent))
    assert outbox.size == 1


async def test_what_is_of_agents_elsewhere_is_left_alone(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start("..")
    await world.server.schedule()
    await world.begin(agent)
    await world.server.runs.cancel_job(await run.job_id("a"), "enough")
    there = world.another_server()
    await world.sql(_NOT_JUST_NOW)
    assert await there.orders.run_once() == 0
    there.links.online = {await world.agent("y", online=False)}
    assert await there.orders.run_once() == 0


async def test_leases_of_many_bytes_are_read_a_few_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that comes back gets the oldest at once, and the others with the passes that follow, in order."""
    agent, channels = await world.agent("x", 5), AgentChannels()
    await world.start(". . . . .")
    await world.server.schedule()
    leased = sorted(world.take(agent), key=lambda dispatch: dispatch.lease_id)
    await world.sql(_NOT_JUST_NOW)
    monkeypatch.setattr("arcentra_server.db.claims.LARGEST_READ", len(leased[0].payload) + 1)  # which two reach
    outbox = channels.open(agent)
    news = await world.server.arrivals.catch_up(agent, [], [], started=frozenset())
    assert news.dispatches == leased[:2]
    for dispatch in news.dispatches:
        outbox.dispatch(dispatch)
    channels.take_dispatches(outbox)
    followed: list[int] = []
    orders = OrderService(world.server.store, channels, lambda: followed.append(1))
    assert [(await orders.run_once(), len(followed)) for _ in range(3)] == [(2, 1), (1, 1), (0, 1)]
    outgoing = await outbox.take()
    assert outgoing is not None
    assert outgoing.dispatches == leased
