"""Who gets what: labels, free slots, several servers, agents that pull, and refusals."""

import asyncio
from collections import Counter
from uuid import UUID

import pytest

from arcentra_server.db import contact
from arcentra_server.db.contact import Beat
from arcentra_server.domain.errors import Unavailable
from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.identity import Role, TokenKind
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.domain.states import RunStatus, StepStatus
from arcentra_server.services.agents import AgentFacts
from tests.support.shapes import shape, wants
from tests.support.world import LEASE_SECONDS, World, step_name


async def test_labels_decide_who_takes_a_job(world: World) -> None:
    linux, big = await world.agent("x", 4, os="linux", cores="2"), await world.agent("y", 4, os="linux", cores="16")
    many = Selector((Term("os", Operator.EXISTS), Term("cores", Operator.GT, ("8",))))
    spec = shape(". . .", {"a": many, "b": wants(os="windows"), "c": wants(os="linux", cores="2")})
    run = await world.start(spec)
    assert await world.server.schedule() == 2
    assert [step_name(dispatch) for dispatch in world.take(big)] == ["a1"]
    assert [step_name(dispatch) for dispatch in world.take(linux)] == ["c1"]
    assert (await run.step("b1")).waiting_reason == "agent"


async def test_labels_of_the_server_win(world: World) -> None:
    token = await world.server.auth.issue(
        TokenKind.REGISTRATION, "untrusted", Role.AGENT, labels={"trust": "low", "pool": "b"}
    )
    joined = await world.server.agents.register(token, AgentFacts("x", labels={"trust": "high", "os": "linux"}))
    assert joined.labels == {"trust": "low", "pool": "b", "os": "linux"}
    world.server.links.online.add(joined.agent_id)
    await world.server.agents.heartbeat(joined.agent_id)
    labels = await world.server.agents.update_labels(joined.agent_id, {"trust": "high"}, merge=True)
    assert labels == {"trust": "low", "pool": "b", "os": "linux"}
    again = await world.server.agents.register_again(
        joined.agent_id, joined.token, AgentFacts("x", labels={"pool": "a"})
    )
    assert again.labels == {"trust": "low", "pool": "b"}
    await world.start(shape(".", {"a": wants(trust="high")}))
    assert await world.server.schedule() == 0
    await world.start(shape(".", {"a": wants(trust="low")}))
    assert await world.server.schedule() == 1


async def test_changed_labels_count_at_once(world: World) -> None:
    agent = await world.agent("x", 2, os="linux")
    await world.start(shape(".", {"a": wants(gpu="yes")}))
    assert await world.server.schedule() == 0
    assert await world.server.agents.update_labels(agent, {"gpu": "yes"}, merge=True) == {"os": "linux", "gpu": "yes"}
    assert await world.server.schedule() == 1
    assert await world.server.agents.update_labels(agent, {"gpu": "no"}, merge=False) == {"gpu": "no"}


async def test_leases_use_up_the_slots_of_an_agent(world: World) -> None:
    agent = await world.agent("x", 2)
    await world.start(". . .")
    assert await world.server.schedule() == 2
    assert await world.server.schedule() == 0
    one, _ = world.take(agent)
    assert await world.report(one, StepStatus.RUNNING) is None
    assert await world.server.schedule() == 0
    await world.end(one)
    assert await world.server.schedule() == 1
    await world.server.agents.heartbeat(agent, capacity=3)
    await world.start(".")
    assert await world.server.schedule() == 1


async def test_oldest_run_comes_first_and_the_freest_agent_takes_it(world: World) -> None:
    small, large = await world.agent("x", 1), await world.agent("y", 3)
    pipeline = await world.pipeline(". .")
    runs = [await world.trigger(pipeline) for _ in range(3)]
    assert await world.server.schedule() == 4
    assert [len(world.take(agent)) for agent in (small, large)] == [1, 3]
    assert [(await run.step("a1")).leased for run in runs] == [True, True, False]


async def test_agent_that_is_not_connected_gets_nothing(world: World) -> None:
    agent = await world.agent("x", online=False)
    await world.start(".")
    assert await world.server.schedule() == 0
    world.server.links.online.add(agent)
    assert await world.server.schedule() == 1


async def test_free_agents_work_though_others_are_wanted_more(world: World) -> None:
    """The head of the queue wants the one agent that is nearly full: work behind it is for the others."""
    scarce, plenty = await world.agent("x", 1, pool="scarce"), await world.agent("y", 4, pool="plenty")
    for _ in range(8):
        await world.start(shape(".", {"a": wants(pool="scarce")}))
    for _ in range(4):
        await world.start(shape(".", {"a": wants(pool="plenty")}))
    await world.server.schedule()
    assert [len(world.take(agent)) for agent in (scarce, plenty)] == [1, 4]


async def test_selector_that_was_stored_late_is_seen(world: World) -> None:
    """Ids of selectors are given out before they are committed: a smaller one may become visible after a larger one."""
    agent = await world.agent("x", 4, pool="a")
    async with world.database.transaction() as slow:
        await slow.execute(
            "INSERT INTO selectors (digest, document) VALUES (sha256($1), $2)",
            b'[["pool","In",["a"]]]',
            [["pool", "In", ["a"]]],
        )
        await world.start(".")
        assert await world.server.schedule() == 1
    await world.start(shape(".", {"a": wants(pool="a")}))
    assert await world.value("SELECT count(*) FROM selectors") == 2
    assert await world.server.schedule() == 1
    assert len(world.take(agent)) == 2


async def test_two_servers_never_lease_a_step_twice(world: World) -> None:
    other = world.another_server()
    mine, theirs = await world.agent("x", 40), await world.agent("y", 40, online=False)
    other.links.online.add(theirs)
    pipeline = await world.pipeline(". . . .")
    for _ in range(25):
        await world.trigger(pipeline)
    await asyncio.gather(*(server.dispatch.run_once() for server in (world.server, other) for _ in range(4)))
    sent = [*world.take(mine), *other.links.sent[theirs]]
    assert len(sent) == await world.value("SELECT count(*) FROM leases")
    assert set(Counter(dispatch.step_run_id for dispatch in sent).values()) == {1}
    await world.check()
    assert await world.server.schedule() + await other.schedule() + len(sent) == 80


async def test_two_passes_of_one_server_do_not_fill_a_slot_twice(world: World) -> None:
    await world.agent("x", 3)
    await world.start(" ".join("." * 12))
    leased = await asyncio.gather(*(world.server.dispatch.run_once() for _ in range(6)))
    assert sum(leased) == 3


async def test_two_servers_do_not_fill_the_slots_of_one_agent_twice(world: World) -> None:
    """An agent that moves from one server to another, or pulls from both, is within reach of both for a moment."""
    other = world.another_server()
    agent = await world.agent("x", 2)
    other.links.online.add(agent)
    pipeline = await world.pipeline(" ".join("." * 8))
    for _ in range(12):
        await world.trigger(pipeline)
        await asyncio.gather(*(server.dispatch.run_once() for server in (world.server, other) for _ in range(2)))
        await world.check()
        await world.sql("UPDATE agents SET capacity = capacity + 2")


# Agents that pull


async def test_agent_that_pulls_gets_what_it_asks_for(world: World) -> None:
    agent = await world.agent("x", 3, online=False)
    await world.start(". . . .")
    first = await world.server.dispatch.fetch(agent, 2, 0)
    assert len(first) == 2
    for dispatch in first:
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    assert len(await world.server.dispatch.fetch(agent, 5, 0)) == 1


async def test_agent_that_pulls_gets_again_what_it_has_not_started(world: World) -> None:
    agent = await world.agent("x", 3, online=False)
    await world.start(". .")
    first = await world.server.dispatch.fetch(agent, 3, 0)
    assert await world.server.dispatch.fetch(agent, 3, 0) == first
    assert await world.server.dispatch.fetch(agent, 1, 0) == first[:1]


async def _ask(world: World, group: asyncio.TaskGroup, agent: UUID, wanted: int) -> asyncio.Task[list[Dispatch]]:
    """Let an agent ask while there is nothing for it."""
    assert await world.server.schedule() == 0
    call = group.create_task(world.server.dispatch.fetch(agent, wanted, 30))
    await world.server.bell.wait()  # asking is a reason for a pass
    return call


async def test_agent_that_waits_is_answered_when_there_is_work(world: World) -> None:
    agent = await world.agent("x", online=False)
    async with asyncio.TaskGroup() as group:
        call = await _ask(world, group, agent, 1)
        await world.start(".")
        assert await world.server.schedule() == 1
    [dispatch] = call.result()
    assert dispatch.agent_id == agent


async def test_agent_that_asks_twice_at_once_gets_no_more_than_each_asked_for(world: World) -> None:
    agent = await world.agent("x", 8, online=False)
    async with asyncio.TaskGroup() as group:
        calls = [await _ask(world, group, agent, wanted) for wanted in (1, 5)]
        await world.start(". . . . . . . .")
        for _ in calls:
            await world.server.dispatch.run_once()
    few, many = (call.result() for call in calls)
    assert (len(few), 1 <= len(many) <= 5) == (1, True)
    assert not {dispatch.lease_id for dispatch in few} & {dispatch.lease_id for dispatch in many}


# What others have locked at the moment of a pass


async def test_step_whose_agent_was_locked_by_its_heartbeat_is_next_and_soon(world: World) -> None:
    agent = await world.agent("x")
    first, second = await world.start("."), await world.start(".")
    async with world.database.transaction() as tx:
        await contact.renew(tx, [Beat(agent)], LEASE_SECONDS)
        assert await world.server.dispatch.run_once() == 0
    await world.server.bell.wait()
    assert await world.server.dispatch.run_once() == 1
    assert (await first.states(), (await first.step("a1")).leased, (await second.step("a1")).leased) == (
        "Q",
        True,
        False,
    )


async def test_step_that_another_server_has_locked_keeps_the_agent_from_nothing(world: World) -> None:
    await world.agent("x")
    first, second = await world.start("."), await world.start(".")
    async with world.database.transaction() as tx:
        await tx.execute("SELECT FROM step_queue WHERE step_run_id = $1 FOR UPDATE", await first.step_id("a1"))
        while not await world.server.dispatch.run_once():
            await world.server.bell.wait()
    assert (await second.step("a1")).leased
    assert not (await first.step("a1")).leased


async def test_pass_that_leaves_something_locked_is_followed_by_another(world: World) -> None:
    """Also where it leased something to the same agent."""
    agent = await world.agent("x", 2)
    first, _ = await world.start("."), await world.start(".")
    async with world.database.transaction() as tx:
        await tx.execute("SELECT FROM step_queue WHERE step_run_id = $1 FOR UPDATE", await first.step_id("a1"))
        assert await world.server.schedule() == 1
    await world.server.bell.wait()
    assert await world.server.schedule() == 1
    assert len(world.take(agent)) == 2


# Refusals


async def test_refused_step_waits_a_little_and_is_placed_again(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.server.schedule()
    dispatch = world.take_one(agent)
    await world.server.dispatch.refused(agent, dispatch.lease_id, "no disk")
    assert await world.server.schedule() == 0
    await world.sql("UPDATE step_queue SET ready_at = clock_timestamp()")
    assert await world.server.schedule() == 1
    again = world.take_one(agent)
    assert (again.step_run_id, again.lease_id == dispatch.lease_id) == (dispatch.step_run_id, False)
    assert (await run.row()).status is RunStatus.PENDING


async def test_refusal_of_another_agents_lease_or_of_a_started_step_changes_nothing(world: World) -> None:
    agent, other = await world.agent("x"), await world.agent("y", online=False)
    run = await world.start(".")
    await world.server.schedule()
    dispatch = world.take_one(agent)
    await world.server.dispatch.refused(other, dispatch.lease_id, "no")
    assert (await run.step("a1")).leased
    assert await world.report(dispatch, StepStatus.RUNNING) is None
    await world.server.dispatch.refused(agent, dispatch.lease_id, "no")
    assert await run.states() == "R"


# What an agent that connects has missed


async def _three_leased(world: World) -> tuple[UUID, list[Dispatch]]:
    agent = await world.agent("x", 3)
    for _ in range(3):
        await world.start(".. | .")
    await world.server.schedule()
    return agent, world.take(agent)


async def test_what_was_not_started_is_sent_again(world: World) -> None:
    agent, leased = await _three_leased(world)
    news = await world.come_back(agent)
    assert (news.dispatches, news.cancels, news.released) == (leased, [], [])


async def test_step_that_is_not_named_is_lost_and_one_that_is_not_held_is_to_be_killed(world: World) -> None:
    agent, leased = await _three_leased(world)
    for dispatch in leased:
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    kept, lost, ended = leased
    await world.end(ended, StepStatus.FAILED)
    news = await world.come_back(agent, [kept.step_run_id, ended.step_run_id])
    assert [command.step_run_id for command in news.cancels] == [ended.step_run_id]
    assert (await world.server.steps.get(kept.step_run_id)).status is StepStatus.RUNNING
    row = await world.server.steps.get(lost.step_run_id)
    assert (row.status, row.failure_reason) == (StepStatus.FAILED, "agent_lost")


async def test_first_message_that_comes_late_loses_nothing_that_was_started_since_its_channel_was_opened(
    world: World,
) -> None:
    """The agent has opened another channel meanwhile, to another server, and started steps that it got there."""
    agent, leased = await _three_leased(world)
    old, *newer = leased
    assert await world.report(old, StepStatus.RUNNING) is None
    started = await world.started(agent)
    for dispatch in newer:
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    with pytest.raises(Unavailable, match="come again"):
        await world.server.arrivals.catch_up(agent, [], [], started=started)
    states = [(await world.server.steps.get(dispatch.step_run_id)).status for dispatch in leased]
    assert states == [StepStatus.RUNNING] * 3
    news = await world.come_back(agent, [dispatch.step_run_id for dispatch in newer])
    assert news.cancels == []
    states = [(await world.server.steps.get(dispatch.step_run_id)).status for dispatch in leased]
    assert states == [StepStatus.FAILED, StepStatus.RUNNING, StepStatus.RUNNING]


async def test_step_that_the_process_before_reported_last_of_all_is_lost_when_the_agent_comes_again(
    world: World,
) -> None:
    """Its report is committed after the process that follows was let in, and before the first message of that is read."""
    agent, leased = await _three_leased(world)
    started = await world.started(agent)
    assert await world.report(leased[0], StepStatus.RUNNING) is None
    with pytest.raises(Unavailable, match="come again"):
        await world.server.arrivals.catch_up(agent, [], [], started=started)
    news = await world.come_back(agent)
    assert (news.dispatches, news.cancels) == (leased[1:], [])
    states = [(await world.server.steps.get(dispatch.step_run_id)).status for dispatch in leased]
    assert states == [StepStatus.FAILED, StepStatus.QUEUED, StepStatus.QUEUED]


async def test_step_that_an_agent_has_and_started_while_it_was_let_in_keeps_it_out_of_nothing(world: World) -> None:
    agent, leased = await _three_leased(world)
    started = await world.started(agent)
    assert await world.report(leased[0], StepStatus.RUNNING) is None
    news = await world.server.arrivals.catch_up(agent, [leased[0].step_run_id], [], started=started)
    assert (news.dispatches, news.cancels) == (leased[1:], [])
    for dispatch in news.dispatches:
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    assert {(await world.server.steps.get(one.step_run_id)).status for one in leased} == {StepStatus.RUNNING}


@pytest.mark.parametrize("minutes", [-5, 5])
async def test_agent_that_was_restarted_loses_its_step_whatever_the_clock_of_the_database_does(
    world: World, minutes: int
) -> None:
    agent, leased = await _three_leased(world)
    assert await world.report(leased[0], StepStatus.RUNNING) is None
    # As if the clock had been set by as much, the other way.
    await world.sql("UPDATE leases SET created_at = created_at + make_interval(mins => $1)", minutes)
    await world.come_back(agent)
    assert (await world.server.steps.get(leased[0].step_run_id)).status is StepStatus.FAILED


async def test_agent_that_names_no_steps_loses_none(world: World) -> None:
    agent, leased = await _three_leased(world)
    assert await world.report(leased[0], StepStatus.RUNNING) is None
    news = await world.server.arrivals.catch_up(agent, [], [], started=None)
    assert (news.dispatches, news.cancels) == (leased[1:], [])
    assert (await world.server.steps.get(leased[0].step_run_id)).status is StepStatus.RUNNING


async def test_cancellation_that_was_missed_is_told(world: World) -> None:
    agent, leased = await _three_leased(world)
    world.server.links.online.remove(agent)
    assert await world.report(leased[0], StepStatus.RUNNING) is None
    await world.server.steps.cancel(leased[0].step_run_id, "not wanted")
    assert world.server.links.cancels == []
    started = await world.started(agent)
    for running, known in (([leased[0].step_run_id], started), ([], None)):
        news = await world.server.arrivals.catch_up(agent, running, [], started=known)
        told = [(command.step_run_id, command.reason) for command in news.cancels]
        assert told == [(leased[0].step_run_id, "not wanted")], f"names {len(running)} steps"


async def test_workspaces_of_ended_and_unknown_jobs_may_go(world: World) -> None:
    agent, leased = await _three_leased(world)
    jobs = [(await world.server.steps.get(dispatch.step_run_id)).job_id for dispatch in leased]
    for dispatch in leased[:2]:
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    await world.end(leased[0], StepStatus.FAILED)
    unknown = UUID(int=7)
    news = await world.come_back(agent, [leased[1].step_run_id], [jobs[0], jobs[1], unknown])
    assert set(news.released) == {jobs[0], unknown}


async def test_workspace_of_an_earlier_attempt_may_go(world: World) -> None:
    """The agent was away when the job ended and was retried: the new attempt starts in a new workspace."""
    agent, leased = await _three_leased(world)
    world.server.links.online.remove(agent)
    for dispatch in leased:
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    await world.end(leased[0], StepStatus.FAILED)
    await world.server.steps.retry(leased[0].step_run_id)
    job = (await world.server.steps.get(leased[0].step_run_id)).job_id
    running = [dispatch.step_run_id for dispatch in leased[1:]]
    news = await world.come_back(agent, running, [job])
    assert news.released == [job]


async def test_workspaces_of_jobs_that_end_elsewhere_may_go_while_the_agent_stays(world: World) -> None:
    agent, leased = await _three_leased(world)
    jobs = [(await world.server.steps.get(dispatch.step_run_id)).job_id for dispatch in leased]
    for dispatch in leased[:2]:
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    await world.end(leased[0], StepStatus.FAILED)
    assert await world.server.arrivals.released(agent, jobs) == [jobs[0]]


async def test_workspace_of_a_step_that_is_about_to_start_stays(world: World) -> None:
    """The RUNNING report may be on its way while the agent connects again: the job has no agent yet, but a lease here."""
    agent, leased = await _three_leased(world)
    job = (await world.server.steps.get(leased[0].step_run_id)).job_id
    news = await world.come_back(agent, [leased[0].step_run_id], [job])
    assert news.released == []


async def test_next_step_of_an_agent_that_pulls_answers_it_at_once_and_alone(world: World) -> None:
    """The step is leased with the report of the one before; the agent asked for one, and gets no other work besides."""
    agent = await world.agent("x", 4, online=False)
    await world.start("..")
    [one] = await world.server.dispatch.fetch(agent, 1, 0)
    assert await world.report(one, StepStatus.RUNNING) is None
    await world.start(". . .")
    async with asyncio.TaskGroup() as group:
        await world.end(one)
        call = group.create_task(world.server.dispatch.fetch(agent, 1, 60))
    assert [step_name(dispatch) for dispatch in call.result()] == ["a2"]
    assert await world.value("SELECT count(*) FROM leases WHERE ended_at IS NULL") == 1


async def test_agent_that_waits_is_answered_with_the_next_step_of_its_job(world: World) -> None:
    agent = await world.agent("x", 4, online=False)
    await world.start("..")
    [one] = await world.server.dispatch.fetch(agent, 1, 0)
    assert await world.report(one, StepStatus.RUNNING) is None
    async with asyncio.TaskGroup() as group:
        call = await _ask(world, group, agent, 1)
        await world.end(one)
        await world.start(". . .")
        await world.server.dispatch.run_once()
    assert [step_name(dispatch) for dispatch in call.result()] == ["a2"]
    assert await world.value("SELECT count(*) FROM leases WHERE ended_at IS NULL") == 1
