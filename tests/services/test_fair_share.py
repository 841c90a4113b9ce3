"""The order of the queue between pipelines, through the real services: who is served next."""

from __future__ import annotations

from itertools import count
from uuid import UUID

from arcentra_server.domain.states import RunStatus, StepStatus
from tests.support.shapes import shape, wants
from tests.support.world import Run, World

LEVEL = "SELECT max(share) FROM leases"
FAR_AHEAD = UUID(int=2**128 - 1)  # an id of a clock that was put back since


async def _queue(world: World, number: int) -> UUID:
    """Queue so many step runs of a new pipeline, in as many runs as that takes; return the pipeline."""
    size = next(size for size in count(25, -1) if number % size == 0)
    pipeline = await world.pipeline(" ".join("." * size))
    for _ in range(number // size):
        await world.trigger(pipeline)
    return pipeline


async def _finish_one(world: World, agent: UUID) -> UUID:
    """Let the agent end the step that it runs, and take the next one; return the pipeline that this is of."""
    await world.end(await world.begin(agent))
    assert await world.server.schedule() == 1
    pipeline: UUID = await world.value(
        "SELECT s.pipeline_id FROM leases l JOIN step_runs s ON s.id = l.step_run_id WHERE l.ended_at IS NULL"
    )
    return pipeline


async def test_pipeline_with_one_step_run_goes_before_the_rest_of_one_with_five_hundred(world: World) -> None:
    agent = await world.agent("x")
    many = await _queue(world, 500)
    assert await world.server.schedule() == 1
    for _ in range(5):
        assert await _finish_one(world, agent) == many
    one = await _queue(world, 1)
    served = [await _finish_one(world, agent) for _ in range(3)]
    assert one in served[:2]
    assert served.count(many) == 2


async def test_pipelines_take_turns_whatever_each_has_queued(world: World) -> None:
    agent = await world.agent("x")
    pipelines = [await _queue(world, number) for number in (40, 3, 20)]
    await world.server.schedule()
    served = [await _finish_one(world, agent) for _ in range(11)]
    assert [served[:8].count(pipeline) for pipeline in pipelines] == [2, 3, 3]
    assert pipelines[1] not in served[8:]


async def test_one_that_comes_later_does_not_make_up_for_what_was_served_before(world: World) -> None:
    """Nor does a slot that is empty for a moment let it: the level stays when nothing is leased."""
    agent = await world.agent("x")
    first = await _queue(world, 30)
    await world.server.schedule()
    for _ in range(10):
        await _finish_one(world, agent)
    await world.end(await world.begin(agent))
    later = await _queue(world, 30)
    await world.server.schedule()
    served = [await _finish_one(world, agent) for _ in range(8)]
    assert (served.count(first), served.count(later)) == (4, 4)


async def test_chain_of_jobs_does_not_keep_others_from_the_only_slot(world: World) -> None:
    """The next job is queued in the moment in which the last one leaves the slot."""
    agent = await world.agent("x")
    crowd = await world.start(" ".join("." * 10))
    await world.server.schedule()
    await _finish_one(world, agent)
    chain = await world.start(" | ".join("." * 10))
    served = [await _finish_one(world, agent) for _ in range(10)]
    assert served.count(crowd.pipeline_id) >= 4
    assert served.count(chain.pipeline_id) >= 4


async def test_urgent_step_goes_first_and_costs_the_others_one_turn(world: World) -> None:
    agent = await world.agent("x")
    spec = shape(" ".join("." * 20))
    crowd = await world.start(spec)
    await world.server.schedule()
    await world.sql("UPDATE step_queue SET priority = 9 WHERE share = (SELECT max(share) FROM step_queue)")
    world.server.store.announce_new_work()
    before = await world.value(LEVEL)
    assert await _finish_one(world, agent) == crowd.pipeline_id
    assert await world.value(LEVEL) == before + 1
    other = await world.start(".")
    assert other.pipeline_id in [await _finish_one(world, agent) for _ in range(3)]


async def test_steps_that_only_some_agents_take_do_not_push_others_back(world: World) -> None:
    """Much waits for agents that are not there: what other agents run of the same pipeline leaves its turns alone."""
    agent = await world.agent("x", pool="here")
    spec = shape(" ".join("." * 12), {name: wants(pool="away") for name in "abcdefghijk"} | {"l": wants(pool="here")})
    crowd = await world.start(spec)
    assert await world.server.schedule() == 1
    await world.end(await world.begin(agent))
    away = await world.agent("y", pool="away")
    late = await world.start(shape(".", {"a": wants(pool="away")}))
    assert await world.server.schedule() == 1
    served = [await _finish_one(world, away) for _ in range(2)]
    assert late.pipeline_id in served
    assert crowd.pipeline_id in served


async def test_nobody_starves_when_a_clock_was_put_back(world: World) -> None:
    agent = await world.agent("x")
    crowd = await world.start(" ".join("." * 12))
    await world.server.schedule()
    await _finish_one(world, agent)
    await world.sql("UPDATE leases SET id = $1 WHERE ended_at IS NOT NULL", FAR_AHEAD)
    served = []
    for _ in range(8):
        await world.start(".")
        served.append(await _finish_one(world, agent))
    assert served.count(crowd.pipeline_id) >= 3


async def test_what_is_paused_pushes_nothing_back(world: World) -> None:
    await world.agent("x")
    pipeline, other = await world.pipeline(" ".join("." * 10)), await world.pipeline(" ".join("." * 10))
    await world.server.runs.pause((await world.trigger(pipeline)).id, None, "", "tester")
    await world.trigger(other)
    await world.trigger(pipeline)
    order = [
        row["pipeline_id"]
        for row in await world.sql("SELECT pipeline_id FROM step_queue WHERE NOT held ORDER BY share, run_id")
    ]
    assert order[:4].count(pipeline) == 2


async def test_what_other_agents_or_priorities_are_for_pushes_nothing_back(world: World) -> None:
    """Nor is it pushed back: each selector and each priority is a line of its own, also within one run."""
    away = {name: wants(pool="away") for name in "abcdefgh"}
    mixed = await world.pipeline(shape(" ".join("." * 9), away))
    for _ in range(2):
        await world.trigger(mixed)
    own = "SELECT share FROM step_queue WHERE pipeline_id = $1 ORDER BY share"
    shares = [row["share"] for row in await world.sql(own, mixed)]
    assert shares == sorted([*range(1, 17), 1, 2])
    await world.sql("UPDATE step_queue SET priority = 5")
    late = await world.trigger(mixed)
    shares = [
        row["share"]
        for row in await world.sql("SELECT share FROM step_queue WHERE run_id = $1 ORDER BY share", late.id)
    ]
    assert shares == sorted([*range(1, 9), 1])


async def test_next_job_stands_in_line_with_its_like_alone(world: World) -> None:
    """What is queued after its run began, as other jobs had to come before, is given its turn by the same rule."""
    agent = await world.agent("x", 2, pool="here")
    pipeline = await world.pipeline(
        shape(". | " + " ".join("." * 9), {name: wants(pool="away") for name in "bcdefghi"})
    )
    for _ in range(2):
        await world.trigger(pipeline)
        await world.server.schedule()
        for dispatch in world.take(agent):
            assert await world.report(dispatch, StepStatus.RUNNING) is None
            await world.end(dispatch)
    turns = "SELECT array_agg(share - (SELECT max(share) FROM leases) ORDER BY share) AS turns FROM step_queue GROUP BY selector_id"
    lines = sorted((row["turns"] for row in await world.sql(turns)), key=len)
    assert [len(line) for line in lines] == [1, 16]
    assert lines[0] == [1]
    assert lines[1] == list(range(lines[1][0], lines[1][0] + 16))


async def test_next_step_of_a_job_is_no_new_turn(world: World) -> None:
    agent = await world.agent("x", 2)
    long = await world.start("......")
    await world.server.schedule()
    level = await world.value(LEVEL)
    for name in ("a1", "a2", "a3"):
        for dispatch in world.take(agent):
            assert await world.report(dispatch, StepStatus.RUNNING) is None
        await world.end_of(long, name)
        assert await world.value(LEVEL) == level
    assert await world.value("SELECT count(*) FROM leases WHERE pipeline_id = $1", long.pipeline_id) == 4


async def test_step_that_was_lost_before_it_started_keeps_its_turn(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(" ".join("." * 5))
    await world.server.schedule()
    lost = world.take_one(agent)
    await world.server.dispatch.refused(agent, lost.lease_id, "not now")
    await world.sql("UPDATE step_queue SET ready_at = clock_timestamp()")
    world.server.store.announce_new_work()
    assert await world.server.schedule() == 1
    assert world.take_one(agent).step_run_id == lost.step_run_id
    assert await run.status() is RunStatus.PENDING


async def test_leases_say_whose_they_are(world: World) -> None:
    await world.agent("x", 3)
    run = await world.start(". .")
    await world.server.schedule()
    rows = await world.sql("SELECT pipeline_id, share FROM leases ORDER BY id")
    assert [(row["pipeline_id"], row["share"]) for row in rows] == [(run.pipeline_id, 1), (run.pipeline_id, 2)]


# Agents that an operator took out


async def _drained(world: World) -> tuple[UUID, Run, Run]:
    """An agent that runs the first of two steps of a job, and is drained; and a run that could use its free slots."""
    agent = await world.agent("x", 3)
    run = await world.start("..")
    await world.server.schedule()
    return agent, run, await world.start(".")


async def test_drained_agent_gets_the_next_steps_of_its_jobs_and_nothing_new(world: World) -> None:
    agent, run, other = await _drained(world)
    first = world.take_one(agent)
    await world.sql("UPDATE agents SET drained = true")
    assert await world.server.schedule() == 0
    assert await world.report(first, StepStatus.RUNNING) is None
    await world.end(first)
    await world.end(await world.begin(agent))
    assert (await run.states(), await other.states()) == ("SS", "Q")


async def test_drained_agent_gets_a_step_of_its_job_that_waits_in_the_queue(world: World) -> None:
    agent, run, other = await _drained(world)
    first = world.take_one(agent)
    assert await world.report(first, StepStatus.RUNNING) is None
    await world.server.runs.pause(run.id, None, "", "tester")
    await world.end(first)
    await world.sql("UPDATE agents SET draining = true")
    await world.server.runs.resume(run.id, None, "", "tester")
    assert await world.server.schedule() == 1
    assert world.take_one(agent).step_run_id == await run.step_id("a2")
    assert await other.states() == "Q"


async def test_disabled_or_unapproved_agent_gets_nothing_at_all(world: World) -> None:
    agent, run, other = await _drained(world)
    first = world.take_one(agent)
    assert await world.report(first, StepStatus.RUNNING) is None
    await world.server.runs.pause(run.id, None, "", "tester")
    await world.end(first)
    await world.server.runs.resume(run.id, None, "", "tester")
    for approved, disabled in ((True, True), (False, False)):
        await world.sql("UPDATE agents SET approved = $1, disabled = $2", approved, disabled)
        assert await world.server.schedule() == 0
    await world.sql("UPDATE agents SET approved = true")
    assert await world.server.schedule() == 2
    assert {await run.states(), await other.states()} == {"SQ", "Q"}


async def test_reserved_agent_takes_only_those_that_ask(world: World) -> None:
    joined = await world.agent("x", 4, os="linux")
    await world.server.agents.update_labels(joined, {"!gpu": "nvidia"}, merge=True)
    plain = await world.start(shape(".", {"a": wants(os="linux")}))
    asking = await world.start(shape(".", {"a": wants(gpu="nvidia")}))
    assert await world.server.schedule() == 1
    assert [dispatch.step_run_id for dispatch in world.take(joined)] == [await asking.step_id("a1")]
    await world.agent("y", 1, os="linux")
    assert await world.server.schedule() == 1
    assert (await plain.step("a1")).leased
