"""Step runs that agents will not run."""

from arcentra_server.domain.execution import Dispatch
from arcentra_server.domain.states import RunStatus, StepStatus
from tests.support.world import World


async def _placed(world: World) -> Dispatch:
    await world.sql("UPDATE step_queue SET ready_at = clock_timestamp()")
    assert await world.server.schedule() == 1
    [dispatch] = [dispatch for agent in world.server.links.online for dispatch in world.take(agent)]
    return dispatch


async def test_step_that_is_refused_waits_longer_each_time_and_fails_at_last(world: World) -> None:
    for name in ("x", "y"):
        await world.agent(name)
    run = await world.start(". | .")
    waits = []
    for _ in range(4):
        dispatch = await _placed(world)
        await world.server.dispatch.refused(dispatch.agent_id, dispatch.lease_id, "no disk")
        left = "SELECT round(extract(epoch FROM ready_at - clock_timestamp()))::int FROM step_queue WHERE NOT held"
        waits.append(await world.value(left))
        assert await run.states() == "Q P"
    assert waits == sorted(set(waits))
    dispatch = await _placed(world)
    await world.server.dispatch.refused(dispatch.agent_id, dispatch.lease_id, "no disk")
    step = await run.step("a1")
    assert (step.status, step.failure_reason, step.error_message) == (
        StepStatus.FAILED,
        "internal",
        "refused by every agent that was asked, 5 times: no disk",
    )
    assert await run.status() is RunStatus.FAILED
    assert await world.value("SELECT count(*) FROM leases WHERE end_reason = 'refused'") == 4


async def test_lease_that_was_lost_is_no_refusal(world: World) -> None:
    await world.agent("x")
    run = await world.start(".")
    for _ in range(6):
        await _placed(world)
        await world.sql("UPDATE leases SET created_at = created_at - interval '16 s' WHERE ended_at IS NULL")
        await world.server.reaper.run_once()
    dispatch = await _placed(world)
    await world.server.dispatch.refused(dispatch.agent_id, dispatch.lease_id, "")
    assert await run.states() == "Q"


async def test_new_attempt_of_a_refused_step_is_not_counted_with_the_one_before(world: World) -> None:
    await world.agent("x")
    run = await world.start(".")
    for _ in range(5):
        dispatch = await _placed(world)
        await world.server.dispatch.refused(dispatch.agent_id, dispatch.lease_id, "")
    assert (await run.step("a1")).error_message.endswith("5 times: no reason given")
    await world.server.steps.retry(await run.step_id("a1"))
    dispatch = await _placed(world)
    await world.server.dispatch.refused(dispatch.agent_id, dispatch.lease_id, "")
    assert await run.states() == "Q"
