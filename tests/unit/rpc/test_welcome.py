"""What an agent is told while its channel is open."""

from __future__ import annotations

from uuid import UUID

from arcentra_server.domain.standing import Settings, Standing
from arcentra_server.rpc.channels import AgentChannels, Outbox
from arcentra_server.rpc.welcome import Welcome

AGENT = UUID(int=1)
DRAINED = Standing(drained=True, note="upgrade")


def _open(channels: AgentChannels) -> Outbox:
    outbox = channels.open(AGENT)
    outbox.brief(Settings(10_000, 30_000))
    return outbox


async def _told(outbox: Outbox) -> Settings | None:
    """Return the settings that go out next, None when there is nothing new to tell."""
    outbox.acknowledge(1)
    outgoing = await outbox.take()
    return outgoing.settings if outgoing else None


async def test_drain_that_began_here_and_ended_through_another_server_is_told_to_have_ended() -> None:
    channels = AgentChannels()
    outbox = _open(channels)
    welcome = Welcome(outbox, None)
    await _told(outbox)
    channels.change(AGENT, DRAINED)
    told = await _told(outbox)
    assert told is not None
    assert (told.drain, told.drain_reason) == (True, "upgrade")
    welcome.beaten(Standing())
    told = await _told(outbox)
    assert told is not None
    assert not told.drain


async def test_what_was_told_is_not_told_again() -> None:
    outbox = _open(AgentChannels())
    welcome = Welcome(outbox, 0.0)
    assert await _told(outbox) is not None
    welcome.beaten(DRAINED)
    told = await _told(outbox)
    assert told is not None
    assert (told.drain, told.rotate_credential) == (True, True)
    for _ in range(2):
        welcome.beaten(DRAINED)
        assert await _told(outbox) is None
