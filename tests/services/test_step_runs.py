"""Step runs that are added, changed and deleted; lists, artifacts, and what agents say of whole jobs."""

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from arcentra_server.db.paging import Page
from arcentra_server.db.step_runs import StepFilter
from arcentra_server.domain.definition import StepSpec
from arcentra_server.domain.errors import AlreadyExists, InvalidTransition, NotFound, NotLeased, ValidationError
from arcentra_server.domain.states import RunStatus, StepStatus
from arcentra_server.rpc.convert import dispatch as wire
from arcentra_server.services.runs import JobReport
from arcentra_server.services.step_runs import AddedStep
from tests.support.shapes import shape
from tests.support.world import Run, World

UNKNOWN = UUID(int=7)
EXTRA = StepSpec("extra", uses="shell", args={"script": "true"})
FAILED, CANCELLED = StepStatus.FAILED, StepStatus.CANCELLED


async def _add(run: Run, job_name: str, name: str = "extra") -> UUID:
    return await run.world.server.steps.create(AddedStep(replace(EXTRA, name=name), run.id, job_name=job_name), "alice")


async def test_added_step_follows_those_of_its_job(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(". | .")
    await world.server.schedule()
    dispatch = await world.begin(agent)
    step = await world.server.steps.get(await _add(run, "a"))
    assert (step.status, step.step_index, step.added, step.created_by) == (StepStatus.PENDING, 1, True, "alice")
    await world.server.steps.create(AddedStep(EXTRA, run.id, job_id=await run.job_id("b")), "alice")
    await world.check()
    await world.end(dispatch)
    assert await world.work(agent) == ["extra", "b1", "extra"]
    assert await run.status() is RunStatus.SUCCESS


async def test_new_job_name_makes_a_job_of_its_own(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(". | .")
    await _add(run, "adhoc")
    await _add(run, "adhoc", "more")
    row = await run.row()
    assert (row.total_jobs, [(job.name, job.stage_index) for job in row.jobs]) == (
        3,
        [("a", 0), ("adhoc", 0), ("b", 1)],
    )
    await world.check()
    assert sorted((await world.work(agent))[:-1]) == ["a1", "extra", "more"]
    assert await run.status() is RunStatus.SUCCESS


async def test_new_job_in_a_paused_run_waits(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.server.runs.pause(run.id, None, "", "alice")
    await _add(run, "adhoc")
    assert await world.server.schedule() == 0
    await world.server.runs.resume(run.id, None, "", "alice")
    assert len(await world.work(agent)) == 2


async def test_what_cannot_be_added(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(". | .")
    create = world.server.steps.create
    with pytest.raises(ValidationError) as refused:
        await create(AddedStep(StepSpec("", uses=""), run.id), "alice")
    assert len(refused.value.faults) == 3
    for missing in (
        AddedStep(EXTRA, UNKNOWN, job_name="a"),
        AddedStep(EXTRA, run.id, job_id=UNKNOWN),
    ):
        with pytest.raises(NotFound):
            await create(missing, "alice")
    with pytest.raises(ValidationError):
        await create(AddedStep(EXTRA, run.id, pipeline_id=UNKNOWN, job_name="a"), "alice")
    with pytest.raises(AlreadyExists):
        await create(AddedStep(replace(EXTRA, name="a1"), run.id, job_name="a"), "alice")
    await world.server.schedule()
    await world.end(await world.begin(agent))
    with pytest.raises(InvalidTransition):
        await create(AddedStep(EXTRA, run.id, job_name="a"), "alice")
    await world.work(agent)
    with pytest.raises(InvalidTransition):
        await create(AddedStep(EXTRA, run.id, job_name="adhoc"), "alice")


async def test_steps_added_while_the_job_ends(world: World) -> None:
    agent = await world.agent("x")
    for _ in range(8):
        run = await world.start(".")
        await world.server.schedule()
        dispatch = await world.begin(agent)
        _, *added = await asyncio.gather(
            world.end(dispatch), *(_add(run, "a", f"extra-{number}") for number in range(3)), return_exceptions=True
        )
        await world.check()
        failures = [error for error in added if isinstance(error, BaseException)]
        assert all(isinstance(error, InvalidTransition) for error in failures)
        await world.work(agent)
        assert (await run.status(), len((await run.row()).jobs[0].steps)) == (RunStatus.SUCCESS, 4 - len(failures))


async def test_update_before_dispatch(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(shape("..", timeouts={"a1": 60_000, "a2": 60_000}))
    for name in ("a1", "a2"):
        await world.server.steps.update(await run.step_id(name), {"MODE": "fast"}, 90_000)
    assert await world.value("SELECT sum(timeout_ms) FROM step_runs") == 180_000
    await world.server.schedule()
    dispatch = world.take_one(agent)
    step = wire.complete(dispatch)
    assert (step.env["MODE"], step.env["ARCENTRA_NAMESPACE"], step.timeout) == ("fast", "default", "1m30s")
    with pytest.raises(InvalidTransition):
        await world.server.steps.update(dispatch.step_run_id, {"MODE": "slow"}, None)
    with pytest.raises(ValidationError):
        await world.server.steps.update(await run.step_id("a2"), {"no name": ""}, None)
    with pytest.raises(NotFound):
        await world.server.steps.update(UNKNOWN, {}, None)


async def test_update_of_the_environment_keeps_the_timeout(world: World) -> None:
    run = await world.start(shape(".", timeouts={"a1": 60_000}))
    await world.server.steps.update(await run.step_id("a1"), {"MODE": "fast"}, None)
    assert await world.value("SELECT timeout_ms FROM step_runs") == 60_000
    assert wire.spec_of((await run.step("a1")).dispatch).timeout == "1m"


async def test_update_that_races_with_a_claim_is_seen_by_the_agent_or_refused(world: World) -> None:
    agent = await world.agent("x", 1_000)
    pipeline = await world.pipeline(".")
    for _ in range(25):
        run = await world.trigger(pipeline)
        step = await run.step_id("a1")
        updated, _ = await asyncio.gather(
            world.server.steps.update(step, {"MODE": "fast"}, None), world.server.schedule(), return_exceptions=True
        )
        await world.server.schedule()
        sent = wire.complete(world.take_one(agent)).env.get("MODE")
        assert (sent == "fast") == (updated is None), f"the agent got {sent}, the caller {updated!r}"


async def test_delete_of_an_added_step_that_ended(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    added = await _add(run, "a")
    with pytest.raises(InvalidTransition):
        await world.server.steps.delete(added)
    await world.work(agent)
    with pytest.raises(InvalidTransition):
        await world.server.steps.delete(await run.step_id("a1"))
    with pytest.raises(NotFound):
        await world.server.steps.delete(UNKNOWN)
    await world.server.steps.delete(added)
    with pytest.raises(NotFound):
        await world.server.steps.get(added)
    await world.check()
    await world.server.steps.retry(await run.step_id("a1"))
    assert await world.work(agent) == ["a1"]


async def test_step_is_added_after_another_was_deleted(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    first, _ = await _add(run, "a", "first"), await _add(run, "a", "second")
    await world.server.schedule()
    await world.end(await world.begin(agent))
    await world.end(await world.begin(agent))
    await world.server.steps.delete(first)
    await world.check()
    await _add(run, "a", "third")
    assert await world.work(agent) == ["second", "third"]
    assert await run.status() is RunStatus.SUCCESS


async def test_lists_are_filtered_and_sorted(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".. | .")
    await world.start(".")
    await world.server.schedule()
    dispatch = world.take_one(agent)
    assert await world.report(dispatch, StepStatus.RUNNING) is None

    async def names(wanted: StepFilter, page: Page | None = None) -> tuple[list[str], int]:
        rows, total = await world.server.steps.list_page(wanted, page or Page(sort_by="name", descending=False))
        return [row.name for row in rows], total

    assert await names(StepFilter(run_id=run.id)) == (["a1", "a2", "b1"], 3)
    assert await names(StepFilter(run_id=run.id), Page(2, 2, "name", descending=False)) == (["b1"], 3)
    assert await names(StepFilter(run_id=run.id, job_name="a", status=StepStatus.PENDING)) == (["a2"], 1)
    assert await names(StepFilter(pipeline_id=run.pipeline_id, name="b1")) == (["b1"], 1)
    assert await names(StepFilter(agent_id=agent)) == (["a1"], 1)
    assert await names(StepFilter(job_id=await run.job_id("b"))) == (["b1"], 1)
    assert await names(StepFilter(run_id=UNKNOWN)) == ([], 0)
    with pytest.raises(ValidationError):
        await names(StepFilter(), Page(sort_by="id; DROP TABLE step_runs"))


# What an agent says of a whole job


async def _running(world: World, spec: str) -> tuple[Run, JobReport]:
    agent = await world.agent("x")
    run = await world.start(spec)
    await world.server.schedule()
    dispatch = await world.begin(agent)
    job_id = (await world.server.steps.get(dispatch.step_run_id)).job_id
    return run, JobReport(agent, job_id, RunStatus.RUNNING)


async def test_artifacts_are_noted_and_listed(world: World) -> None:
    run, report = await _running(world, "..")
    say = world.server.runs.report_job
    await say(replace(report, artifact_uris={"log": "file:///1", "image": "file:///2"}))
    await say(replace(report, artifact_uris={"log": "file:///3"}))
    found = await world.server.steps.artifacts(await run.step_id("a2"))
    assert [(artifact.name, artifact.uri) for artifact in found] == [("image", "file:///2"), ("log", "file:///3")]
    with pytest.raises(NotFound):
        await world.server.steps.artifacts(UNKNOWN)


async def test_job_that_its_agent_gives_up_ends_whatever_its_steps_tolerate(world: World) -> None:
    run, report = await _running(world, "?.. | .")
    gone = replace(report, status=RunStatus.FAILED, error_message="the disk is full")
    await world.server.runs.report_job(gone)
    await world.server.runs.report_job(gone)
    assert (await run.states(), await run.job_statuses()) == ("FCx x", [RunStatus.CANCELLED, RunStatus.SKIPPED])
    assert (await run.row()).jobs[0].error_message == "the disk is full"


async def test_job_that_is_given_up_between_its_steps_ends(world: World) -> None:
    run, report = await _running(world, "...")
    await world.end_of(run, "a1")
    gone = replace(report, status=RunStatus.FAILED, error_message="the disk is full")
    await world.server.runs.report_job(gone)
    await world.server.runs.report_job(gone)
    assert await run.job_statuses() == [RunStatus.CANCELLED]


async def test_job_that_its_agent_cancels(world: World) -> None:
    run, report = await _running(world, "..")
    await world.server.runs.report_job(replace(report, status=RunStatus.CANCELLED))
    assert await run.states() == "RP"
    await world.end_of(run, "a1", CANCELLED)
    assert await run.job_statuses() == [RunStatus.CANCELLED]
    await world.server.runs.report_job(replace(report, status=RunStatus.CANCELLED))


async def test_end_of_a_job_follows_from_its_steps(world: World) -> None:
    run, report = await _running(world, ".")
    say = world.server.runs.report_job
    await say(report)
    with pytest.raises(InvalidTransition):
        await say(replace(report, status=RunStatus.SUCCESS))
    await world.end_of(run, "a1")
    await say(replace(report, status=RunStatus.SUCCESS, artifact_uris={"log": "file:///1"}))
    assert len(await world.server.steps.artifacts(await run.step_id("a1"))) == 1
    with pytest.raises(InvalidTransition):
        await say(replace(report, status=RunStatus.FAILED))


async def test_only_the_agent_of_a_job_may_report_it(world: World) -> None:
    _, report = await _running(world, ".")
    other = await world.agent("y", online=False)
    for wrong in (replace(report, agent_id=other), replace(report, job_id=UNKNOWN)):
        with pytest.raises(NotLeased):
            await world.server.runs.report_job(wrong)


async def test_report_of_a_job_that_waits_at_its_gate(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".[gate]")
    await world.work(agent)
    job = await run.job_id("a")
    say = world.server.runs.report_job
    await say(JobReport(agent, job, RunStatus.SUCCESS, "", {"report": "https://store/report"}))
    assert await world.value("SELECT uri FROM artifacts WHERE job_run_id = $1", job) == "https://store/report"
    for status in (RunStatus.FAILED, RunStatus.CANCELLED):
        await say(JobReport(agent, job, status, "too late"))
        assert await run.job_statuses() == [RunStatus.RUNNING], "people decide what becomes of it"


async def test_report_of_an_attempt_before_is_kept_and_changes_nothing(world: World) -> None:
    agent, other = await world.agent("x"), await world.agent("y", online=False)
    run = await world.start(".[retry=2]")
    await world.server.schedule()
    await world.end(await world.begin(agent), FAILED)
    job = await run.job_id("a")
    report = JobReport(agent, job, RunStatus.FAILED, "late", {"report": "https://store/report"})
    await world.server.runs.report_job(report)
    assert await world.value("SELECT uri FROM artifacts WHERE job_run_id = $1", job) == "https://store/report"
    assert not (await run.status()).terminal
    with pytest.raises(NotLeased):
        await world.server.runs.report_job(replace(report, agent_id=other))


async def test_artifacts_of_an_attempt_before_do_not_replace_those_of_the_one_in_force(world: World) -> None:
    agent, other = await world.agent("x"), await world.agent("y", online=False)
    run = await world.start(".[retry=2]")
    await world.server.schedule()
    await world.end(await world.begin(agent), FAILED)
    job = await run.job_id("a")
    late = JobReport(agent, job, RunStatus.FAILED, "late", {"wheel": "https://store/1", "log": "https://store/log"})
    await world.server.runs.report_job(late)
    world.server.links.online = {other}
    await world.server.schedule()
    await world.begin(other)
    await world.server.runs.report_job(JobReport(other, job, RunStatus.RUNNING, "", {"wheel": "https://store/2"}))
    again = replace(late, artifact_uris={"wheel": "https://store/3", "more": "https://store/m"})
    await world.server.runs.report_job(again)
    found = await world.server.steps.artifacts(await run.step_id("a1"))
    expected = [("log", "https://store/log"), ("more", "https://store/m"), ("wheel", "https://store/2")]
    assert [(artifact.name, artifact.uri) for artifact in found] == expected


async def test_artifacts_of_an_agent_of_one_step_replace_those_of_an_attempt_before(world: World) -> None:
    agent = await world.agent("x", capacity=2, own="yes")
    run = await world.start("*[retry=2]")
    job = await run.job_id("a")
    for number, status in enumerate((FAILED, StepStatus.SUCCESS)):
        await world.server.schedule()
        dispatch = await world.begin(agent)
        await world.server.runs.report_job(JobReport(agent, job, RunStatus.RUNNING, "", {"log": f"https://{number}"}))
        await world.end(dispatch, status)
    assert await world.value("SELECT uri FROM artifacts") == "https://1"


async def test_agent_that_started_no_step_of_a_job_does_not_report_it(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    await world.server.schedule()
    world.take_one(agent)
    report = JobReport(agent, await run.job_id("a"), RunStatus.RUNNING, "", {"log": "https://store/log"})
    with pytest.raises(NotLeased):
        await world.server.runs.report_job(report)
    assert await world.sql("SELECT 1 FROM artifacts") == []
