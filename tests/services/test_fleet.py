"""What operators do with agents: approve, drain, disable and label them."""

from uuid import UUID

import pytest

from arcentra_server.domain.errors import NotAdmitted, NotFound, Unauthenticated, ValidationError
from arcentra_server.domain.identity import Role, TokenKind
from arcentra_server.domain.standing import Standing
from arcentra_server.domain.states import AgentStatus, StepStatus
from arcentra_server.services.agents import AgentFacts, Registered
from tests.support.world import World

UNKNOWN = UUID(int=7)


async def _join(world: World, *, needs_approval: bool) -> Registered:
    token = await world.server.auth.issue(TokenKind.REGISTRATION, "join", Role.AGENT, needs_approval=needs_approval)
    return await world.server.agents.register(token, AgentFacts("new", capacity=2))


async def _told(world: World, agent: UUID) -> list[tuple[str, str | None, str, str]]:
    rows = await world.sql(
        "SELECT status, previous_status, message, actor FROM events WHERE agent_id = $1 AND resource = 'agent' ORDER BY id",
        agent,
    )
    return [tuple(row) for row in rows]


async def _status(world: World, agent: UUID) -> AgentStatus:
    return (await world.server.fleet.get(agent)).status


async def test_new_agent_waits_for_approval_if_its_registration_says_so(world: World) -> None:
    assert not (await _join(world, needs_approval=False)).pending
    joined = await _join(world, needs_approval=True)
    agent = joined.agent_id
    assert joined.pending
    assert (await world.server.agents.register_again(agent, joined.token, AgentFacts("new", capacity=2))).pending
    caller = await world.server.auth.authenticate(joined.token, "peer")
    assert caller.pending
    assert await world.server.agents.heartbeat(agent) == Standing(approved=False)
    assert await _status(world, agent) is AgentStatus.PENDING_APPROVAL
    with pytest.raises(NotAdmitted, match=r"^agent pending approval$"):
        await world.server.agents.admit(agent, caller.token_id)
    world.server.links.online.add(agent)
    await world.start(".")
    assert await world.server.schedule() == 0
    world.server.auth.forget_agent(agent)
    for _ in range(2):
        row = await world.server.fleet.approve(agent, "ops")
        assert (row.status, row.standing) == (AgentStatus.IDLE, Standing())
    assert not (await world.server.auth.authenticate(joined.token, "peer")).pending
    assert (await world.server.agents.admit(agent, caller.token_id)).standing == Standing()
    assert not (await world.server.agents.register_again(agent, joined.token, AgentFacts("new", capacity=2))).pending
    assert await world.server.schedule() == 1  # that there is an agent more was announced
    assert await _told(world, agent) == [
        ("OFFLINE", None, "", ""),
        ("PENDING_APPROVAL", "OFFLINE", "", ""),
        ("IDLE", "PENDING_APPROVAL", "", "ops"),
    ]


async def test_drained_agent_finishes_what_it_runs_and_takes_nothing_new(world: World) -> None:
    agent = await world.agent("x", 3)
    run = await world.start("..")
    await world.server.schedule()
    first = await world.begin(agent)
    for _ in range(2):
        row = await world.server.fleet.drain(agent, "upgrade", "ops")
        assert (row.status, row.standing, row.running) == (
            AgentStatus.DRAINING,
            Standing(drained=True, note="upgrade"),
            1,
        )
    assert await world.server.agents.heartbeat(agent) == Standing(drained=True, note="upgrade")
    other = await world.start(".")
    assert await world.server.schedule() == 0
    await world.end(first)  # the next step of its job comes to it: its workspace is there
    await world.server.schedule()
    await world.end(await world.begin(agent))
    assert (await run.states(), await other.states()) == ("SS", "Q")
    assert (await world.server.fleet.drain(agent, "", "ops")).standing.note == "upgrade"
    row = await world.server.fleet.resume(agent, "ops")
    assert (row.status, row.standing) == (AgentStatus.IDLE, Standing())
    assert await world.server.schedule() == 1
    assert (await _told(world, agent))[2:] == [
        ("DRAINING", "IDLE", "upgrade", "ops"),
        ("IDLE", "DRAINING", "", "ops"),
    ]


async def test_disabled_agent_takes_nothing_and_ends_what_it_runs(world: World) -> None:
    joined = await _join(world, needs_approval=False)
    agent, token_id = joined.agent_id, (await world.server.auth.authenticate(joined.token, "peer")).token_id
    world.server.links.online.add(agent)
    await world.server.agents.heartbeat(agent)
    run = await world.start(".")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    row = await world.server.fleet.disable(agent, "broken", "ops")
    assert (row.status, row.standing.note, row.running) == (AgentStatus.DISABLED, "broken", 1)
    waiting = await world.start(".")
    assert await world.server.schedule() == 0
    assert (await world.server.agents.admit(agent, token_id)).busy  # it may come back to what it runs
    await world.end(dispatch)
    assert (await run.states(), await waiting.states()) == ("S", "Q")
    with pytest.raises(NotAdmitted, match=r"^agent is disabled$"):
        await world.server.agents.admit(agent, token_id)
    await world.server.agents.heartbeat(agent)
    assert await _status(world, agent) is AgentStatus.DISABLED
    await world.server.fleet.enable(agent, "ops")
    assert await _status(world, agent) is AgentStatus.IDLE
    assert await world.server.schedule() == 1


async def test_note_explains_what_still_holds(world: World) -> None:
    agent = await world.agent("x")
    await world.server.fleet.drain(agent, "upgrade", "ops")
    await world.server.fleet.disable(agent, "broken", "ops")
    assert (await world.server.fleet.resume(agent, "ops")).standing.note == "broken"
    assert (await world.server.fleet.enable(agent, "ops")).standing.note == ""


async def test_every_change_is_told_once_with_who_made_it(world: World) -> None:
    """Also of an agent that is taken out for two reasons: its state tells of one alone."""
    agent, fleet = await world.agent("x"), world.server.fleet
    for _ in range(2):
        await fleet.disable(agent, "broken", "alice")
        await fleet.drain(agent, "upgrade", "bob")
    for _ in range(2):
        await fleet.resume(agent, "carol")
        await fleet.set_labels(agent, {"pool": "b", "zone": "1"}, "dave", merge=True)
    await fleet.set_labels(agent, {"pool": "c"}, "erin", merge=False)
    assert (await _told(world, agent))[2:] == [
        ("DISABLED", "IDLE", "broken", "alice"),
        ("DISABLED", "DISABLED", "drained: upgrade", "bob"),
        ("DISABLED", "DISABLED", "disabled: broken", "alice"),
        ("DISABLED", "DISABLED", "drained: upgrade", "bob"),
        ("DISABLED", "DISABLED", "resumed", "carol"),
        ("DISABLED", "DISABLED", "labels: pool=b zone=1", "dave"),
        ("DISABLED", "DISABLED", "labels: pool=c zone-", "erin"),
    ]


async def test_agent_that_is_away_stays_offline_and_is_what_was_wanted_when_it_is_back(world: World) -> None:
    joined = await _join(world, needs_approval=True)
    for change in (
        world.server.fleet.approve(joined.agent_id, "ops"),
        world.server.fleet.drain(joined.agent_id, "", "ops"),
    ):
        assert (await change).status is AgentStatus.OFFLINE
    await world.server.agents.heartbeat(joined.agent_id)
    assert await _status(world, joined.agent_id) is AgentStatus.DRAINING
    assert await _told(world, joined.agent_id) == [
        ("OFFLINE", None, "", ""),
        ("OFFLINE", "OFFLINE", "approved", "ops"),
        ("OFFLINE", "OFFLINE", "drained", "ops"),
        ("DRAINING", "OFFLINE", "", ""),
    ]


async def test_labels_of_the_server_win_and_are_taken_away_again(world: World) -> None:
    agent = await world.agent("x", pool="claimed", os="linux")
    row = await world.server.fleet.set_labels(agent, {"pool": "b", "zone": "1"}, "ops", merge=True)
    assert row.labels == {"pool": "b", "os": "linux", "zone": "1"}
    assert (row.claimed_labels, row.server_labels) == (
        {"pool": "claimed", "os": "linux"},
        {"pool": "b", "zone": "1"},
    )
    row = await world.server.fleet.set_labels(agent, {"zone": "", "none": "", "size": "xl"}, "ops", merge=True)
    assert row.server_labels == {"pool": "b", "size": "xl"}
    row = await world.server.fleet.set_labels(agent, {"zone": ""}, "ops", merge=False)
    assert (row.server_labels, row.labels) == ({"zone": ""}, {"pool": "claimed", "os": "linux", "zone": ""})
    many = {f"l{number}": "1" for number in range(200)}
    with pytest.raises(ValidationError, match="201, more than 200"):
        await world.server.fleet.set_labels(agent, many, "ops", merge=True)
    assert (await world.server.fleet.get(agent)).server_labels == {"zone": ""}


async def test_labels_of_the_server_are_seen_by_the_scheduler_at_once(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start("*")
    assert await world.server.schedule() == 0
    await world.server.fleet.set_labels(agent, {"own": "yes"}, "ops", merge=True)
    assert await world.server.schedule() == 1
    assert (await run.step("a1")).leased


async def test_nothing_is_done_to_an_agent_that_is_none_or_has_left(world: World) -> None:
    fleet, gone = world.server.fleet, await world.agent("x")
    await world.server.agents.unregister(gone, "")
    for agent in (gone, UNKNOWN):
        for change in (
            fleet.get(agent),
            fleet.approve(agent, ""),
            fleet.drain(agent, "", ""),
            fleet.resume(agent, ""),
            fleet.disable(agent, "", ""),
            fleet.enable(agent, ""),
            fleet.set_labels(agent, {}, "ops", merge=False),
        ):
            with pytest.raises(NotFound):
                await change
        with pytest.raises(Unauthenticated):
            await world.server.agents.admit(agent, "token")


async def test_agent_says_itself_that_it_drains_until_it_begins_anew(world: World) -> None:
    agent = await world.agent("x", 2)
    await world.server.agents.heartbeat(agent, draining=True)
    await world.server.agents.heartbeat(agent)  # one that says nothing of it, as a fetch
    row = await world.server.fleet.get(agent)
    assert (row.status, row.draining, row.standing) == (AgentStatus.DRAINING, True, Standing())
    run = await world.start(".")
    assert await world.server.schedule() == 0
    await world.server.agents.register_again(agent, "", AgentFacts("x", capacity=2))
    await world.server.agents.heartbeat(agent)
    assert await _status(world, agent) is AgentStatus.IDLE
    assert await world.server.schedule() == 1
    await world.begin(agent)
    await world.server.agents.heartbeat(agent, 1, draining=True)  # its capacity is what it runs: nothing more is sent
    assert await _status(world, agent) is AgentStatus.DRAINING
    assert await run.states() == "R"
    assert (await run.step("a1")).status is StepStatus.RUNNING
