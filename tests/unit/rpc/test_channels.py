"""What agents are sent whose channels open, or are caught up with, while the server stops."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from arcentra_server.rpc.channels import AgentChannels, Outbox

AGENT, OTHER = UUID(int=1), UUID(int=2)


async def _asked_to_reconnect(outbox: Outbox) -> bool:
    """Return what the next message says of it; there is one, whatever it says."""
    outbox.acknowledge(1)
    outgoing = await outbox.take()
    return outgoing is not None and outgoing.reconnect


async def test_agents_that_come_before_the_server_stops_get_work_and_stay() -> None:
    channels = AgentChannels()
    outbox = channels.open(AGENT)
    assert list(channels.connected()) == []
    channels.take_dispatches(outbox)
    assert list(channels.connected()) == [AGENT]
    assert not await _asked_to_reconnect(outbox)


@pytest.mark.parametrize("pulls", [False, True])
async def test_agent_whose_channel_opens_when_the_server_stops_is_told_at_once(pulls: bool) -> None:
    """Its call was accepted before: the server would wait for it as long as for any other."""
    channels = AgentChannels()
    early = channels.open(AGENT, pulls=pulls)
    channels.ask_all_to_reconnect()
    late = channels.open(OTHER, pulls=pulls)
    for outbox in (early, late):
        async with asyncio.timeout(10):
            outgoing = await outbox.take()
        assert outgoing is not None
        assert outgoing.reconnect


async def test_nothing_is_pushed_to_an_agent_that_caught_up_when_the_server_stops() -> None:
    channels = AgentChannels()
    early = channels.open(AGENT)
    channels.ask_all_to_reconnect()
    for outbox in (early, channels.open(OTHER)):
        channels.take_dispatches(outbox)
    assert list(channels.connected()) == []


async def test_nothing_is_pushed_to_an_agent_that_rested_when_the_server_stops() -> None:
    channels, rested = AgentChannels(), asyncio.Event()
    outbox = channels.open(AGENT)
    channels.take_dispatches(outbox)
    channels.pass_over(AGENT, 0.0, rested.set)
    channels.ask_all_to_reconnect()
    await rested.wait()
    assert list(channels.connected()) == []
