"""Runs that go as they should: rows, events, counters, and the turns of steps, jobs and stages."""

from arcentra_server.domain.execution import Release
from arcentra_server.domain.states import RunStatus, StepStatus
from tests.support.world import World, step_name


async def test_run_of_one_step(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    assert (await run.states(), await run.status()) == ("Q", RunStatus.PENDING)
    assert await world.server.schedule() == 1
    dispatch = await world.begin(agent)
    assert (await run.states(), await run.status()) == ("R", RunStatus.RUNNING)
    await world.end(dispatch, metrics={"cpu": "3"}, log_size=17)
    row, step = await run.row(), await run.step("a1")
    assert (row.status, row.total_jobs, row.completed_jobs, row.failed_jobs) == (RunStatus.SUCCESS, 1, 1, 0)
    assert (step.status, step.agent_id, step.exit_code, step.metrics) == (StepStatus.SUCCESS, agent, 0, {"cpu": "3"})
    assert step.created_at < step.started_at < step.finished_at  # type: ignore[operator]
    assert row.started_at is not None
    assert row.finished_at is not None
    [pipeline] = await world.sql("SELECT total_runs, success_runs, failed_runs, last_status FROM pipelines")
    assert tuple(pipeline) == (1, 1, 0, "SUCCESS")
    [lease] = await world.sql("SELECT agent_id, end_reason, ended_at IS NULL AS active FROM leases")
    assert tuple(lease) == (agent, "SUCCESS", False)
    assert world.server.links.releases == [Release(agent, await run.job_id("a"))]


async def test_events_tell_every_change_in_its_order(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.work(agent)
    rows = await world.sql(
        "SELECT resource, previous_status, status, completed, running FROM events WHERE run_id = $1 ORDER BY id", run.id
    )
    assert [tuple(row) for row in rows] == [
        ("run", None, "PENDING", 0, 0),
        ("job", None, "PENDING", 0, 0),
        ("step", None, "QUEUED", 0, 0),
        ("job", "PENDING", "RUNNING", 0, 1),
        ("run", "PENDING", "RUNNING", 0, 1),
        ("step", "QUEUED", "RUNNING", 0, 0),
        ("step", "RUNNING", "SUCCESS", 0, 0),
        ("job", "RUNNING", "SUCCESS", 1, 0),
        ("run", "RUNNING", "SUCCESS", 1, 0),
    ]


async def test_next_step_follows_at_once_on_the_same_agent(world: World) -> None:
    first, second = await world.agent("x"), await world.agent("y")
    run = await world.start("...")
    await world.server.schedule()
    agent = first if world.server.links.sent[first] else second
    for name in ("a1", "a2", "a3"):
        dispatch = world.take_one(agent)  # sent with the commit of the report before: no pass of the scheduler
        assert step_name(dispatch) == name
        assert await world.report(dispatch, StepStatus.RUNNING) is None
        await world.end(dispatch)
    assert await run.status() is RunStatus.SUCCESS
    assert await world.value("SELECT count(DISTINCT agent_id) FROM leases") == 1


async def test_step_with_a_selector_of_its_own_goes_elsewhere_and_the_job_comes_back(world: World) -> None:
    home, other = await world.agent("x"), await world.agent("y", own="yes")
    world.server.links.online.remove(other)
    run = await world.start(".*.")
    await world.server.schedule()
    await world.end(await world.begin(home))
    world.server.links.online.add(other)
    assert await world.server.schedule() == 1
    await world.end(await world.begin(other))
    assert await world.work(home) == ["a3"]
    assert await run.status() is RunStatus.SUCCESS
    assert (await run.step("a2")).agent_id == other
    assert (await run.step("a3")).agent_id == home
    job = await run.job_id("a")
    assert set(world.server.links.releases) == {Release(home, job), Release(other, job)}


async def test_stages_follow_each_other_and_jobs_run_side_by_side(world: World) -> None:
    agent = await world.agent("x", 4)
    run = await world.start(". . | . .")
    assert await world.server.schedule() == 2
    assert await run.states() == "Q Q P P"
    first, second = sorted(world.take(agent), key=step_name)
    for dispatch in (first, second):
        assert await world.report(dispatch, StepStatus.RUNNING) is None
    await world.end(first)
    assert await run.states() == "S R P P"
    await world.end(second)
    assert await run.states() == "S S Q Q"
    assert sorted(await world.work(agent)) == ["c1", "d1"]
    assert await run.status() is RunStatus.SUCCESS


async def test_failed_job_skips_the_stages_behind_it(world: World) -> None:
    agent = await world.agent("x", 2)
    run = await world.start(".. . | . | ..")
    await world.server.schedule()
    for dispatch in world.take(agent):
        failed = step_name(dispatch) == "a1"
        assert await world.report(dispatch, StepStatus.RUNNING) is None
        if failed:
            await world.end(dispatch, StepStatus.FAILED, exit_code=3, error_message="no such file")
        else:
            await world.end(dispatch)
    assert await run.states() == "Fx S x xx"
    assert await run.job_statuses() == [RunStatus.FAILED, RunStatus.SUCCESS, RunStatus.SKIPPED, RunStatus.SKIPPED]
    row = await run.row()
    assert (row.status, row.completed_jobs, row.failed_jobs) == (RunStatus.FAILED, 4, 1)
    assert (row.jobs[0].exit_code, row.jobs[0].error_message) == (3, "no such file")
    assert (await run.step("a1")).failure_reason == "script"
    assert await world.value("SELECT failed_runs FROM pipelines") == 1


async def test_tolerated_failure_makes_a_run_partial(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start("?. | .")
    assert await world.work(agent, {"a1": StepStatus.FAILED}) == ["a1", "a2", "b1"]
    assert (await run.states(), await run.status()) == ("FS S", RunStatus.PARTIAL)
    assert await run.job_statuses() == [RunStatus.PARTIAL, RunStatus.SUCCESS]
    [pipeline] = await world.sql("SELECT success_runs, failed_runs, last_status FROM pipelines")
    assert tuple(pipeline) == (0, 0, "PARTIAL")


async def test_timeout_of_a_step_is_the_timeout_of_its_job_and_the_failure_of_its_run(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(". | .")
    await world.work(agent, {"a1": StepStatus.TIMEOUT})
    assert (await run.states(), await run.status()) == ("T x", RunStatus.FAILED)
    assert await run.job_statuses() == [RunStatus.TIMEOUT, RunStatus.SKIPPED]
    assert (await run.step("a1")).failure_reason == "timeout"
