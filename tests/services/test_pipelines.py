"""Pipelines and the runs that are started from them."""

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from arcentra_server.db.paging import Page
from arcentra_server.domain import definition_checks
from arcentra_server.domain.errors import AlreadyExists, InvalidTransition, LimitExceeded, NotFound, ValidationError
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.states import RunStatus, TriggerType
from arcentra_server.rpc.convert import dispatch as wire
from arcentra_server.services.pipelines import NewPipeline, PipelineChange
from tests.support.shapes import shape
from tests.support.world import World

UNKNOWN = UUID(int=7)


async def test_names_are_unique_in_a_namespace_until_the_pipeline_is_deleted(world: World) -> None:
    pipelines = world.server.pipelines
    first = await world.pipeline(".", "build")
    with pytest.raises(AlreadyExists):
        await world.pipeline(".", "build")
    await pipelines.create(NewPipeline(shape("."), namespace="other", name="build"), "tester")
    await pipelines.delete(first)
    with pytest.raises(NotFound):
        await pipelines.get(first)
    second = await world.pipeline(".", "build")
    assert (await pipelines.find("", "build")).id == second
    with pytest.raises(NotFound):
        await pipelines.find("", "test")
    assert (await pipelines.get(await world.pipeline("."))).name != ""


async def test_every_fault_is_named(world: World) -> None:
    spec = shape(". .")
    jobs = tuple(replace(job, name="same") for job in spec.stages[0].jobs)
    broken = replace(spec, stages=(replace(spec.stages[0], jobs=jobs),), variables={"1": "x"})
    with pytest.raises(ValidationError) as refused:
        await world.server.pipelines.create(NewPipeline(broken, namespace="no space", name="ok"), "tester")
    assert {fault.path for fault in refused.value.faults} == {
        "namespace",
        "variables['1']",
        "stages[0].jobs[1].name",
    }


async def test_update_makes_a_new_version_and_runs_keep_theirs(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    change = PipelineChange(stages=shape(". | ..").stages, variables={"MODE": "fast"})
    await world.server.pipelines.update(run.pipeline_id, change, "alice")
    assert (await world.server.pipelines.get(run.pipeline_id)).spec_version == 2
    newer = await world.trigger(run.pipeline_id)
    assert [len((await one.row()).jobs) for one in (run, newer)] == [1, 2]
    assert [(await one.row()).spec_version for one in (run, newer)] == [1, 2]
    await world.work(agent)
    assert [await one.status() for one in (run, newer)] == [RunStatus.SUCCESS] * 2
    specs = await world.sql("SELECT version, created_by FROM pipeline_specs ORDER BY version")
    assert [tuple(spec) for spec in specs] == [(1, "tester"), (2, "alice")]


async def test_update_of_other_things_makes_no_version(world: World) -> None:
    pipeline = await world.pipeline(".", "build")
    await world.pipeline(".", "other")
    update = world.server.pipelines.update
    await update(pipeline, PipelineChange(name="renamed", description="text", enabled=False), "alice")
    row = await world.server.pipelines.get(pipeline)
    assert (row.name, row.description, row.enabled, row.spec_version) == ("renamed", "text", False, 1)
    with pytest.raises(AlreadyExists):
        await update(pipeline, PipelineChange(name="other"), "alice")
    with pytest.raises(ValidationError):
        await update(pipeline, PipelineChange(namespace="elsewhere"), "alice")
    with pytest.raises(ValidationError):
        await update(pipeline, PipelineChange(stages=()), "alice")
    with pytest.raises(NotFound):
        await update(UNKNOWN, PipelineChange(), "alice")


async def test_apply_creates_then_changes_then_leaves(world: World) -> None:
    apply = world.server.pipelines.apply
    first = await apply(NewPipeline(shape("."), name="build"), "alice")
    again = await apply(NewPipeline(shape("."), name="build"), "alice")
    other = await apply(NewPipeline(shape(".."), name="build"), "alice")
    told = await apply(NewPipeline(shape(".."), name="build", description="text"), "alice")
    assert [(one.created, one.changed, one.pipeline.spec_version) for one in (first, again, other, told)] == [
        (True, True, 1),
        (False, False, 1),
        (False, True, 2),
        (False, True, 2),
    ]
    with pytest.raises(ValidationError):
        await apply(NewPipeline(shape(".")), "alice")


async def test_apply_of_a_new_name_twice_at_once(world: World) -> None:
    for number in range(10):
        new = NewPipeline(shape("."), name=f"build-{number}")
        done = await asyncio.gather(*(world.server.pipelines.apply(new, "alice") for _ in range(3)))
        assert sorted(one.created for one in done) == [False, False, True]


async def test_writers_that_come_at_once_wait_for_each_other(world: World) -> None:
    pipelines = world.server.pipelines
    first = (await pipelines.apply(NewPipeline(shape("."), name="build"), "alice")).pipeline
    applied = await asyncio.gather(
        *(pipelines.apply(NewPipeline(shape("." * size), name="build"), "alice") for size in range(2, 8))
    )
    assert {one.pipeline.id for one in applied} == {first.id}
    changes = [PipelineChange(stages=shape("." * size).stages) for size in range(2, 8)]
    await asyncio.gather(
        *(pipelines.update(first.id, change, "alice") for change in changes),
        *(world.trigger(first.id) for _ in range(6)),
    )
    assert (await pipelines.get(first.id)).total_runs == 6


async def test_active_run_keeps_its_pipeline_from_being_deleted(world: World) -> None:
    agent = await world.agent("x")
    run = await world.start(".")
    with pytest.raises(InvalidTransition):
        await world.server.pipelines.delete(run.pipeline_id)
    await world.work(agent)
    await world.server.pipelines.delete(run.pipeline_id)
    with pytest.raises(NotFound):
        await world.server.pipelines.delete(run.pipeline_id)
    with pytest.raises(NotFound):
        await world.trigger(run.pipeline_id)
    assert await run.status() is RunStatus.SUCCESS
    with pytest.raises(InvalidTransition):  # a deleted pipeline starts nothing, whichever way
        await world.server.steps.retry(await run.step_id("a1"))


async def test_disabled_pipeline_is_not_triggered(world: World) -> None:
    pipeline = await world.pipeline(".", enabled=False)
    with pytest.raises(InvalidTransition):
        await world.trigger(pipeline)
    with pytest.raises(NotFound):
        await world.trigger(UNKNOWN)
    await world.server.pipelines.update(pipeline, PipelineChange(enabled=True), "alice")
    assert await (await world.trigger(pipeline)).status() is RunStatus.PENDING


async def test_definition_from_before_the_limit_of_dependencies_starts_no_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = await world.pipeline(". . .[needs=a,b] .[needs=a,b]")
    monkeypatch.setattr(definition_checks, "LARGEST_PIPELINE_NEEDS", 3)
    with pytest.raises(LimitExceeded, match="4 dependencies with all cells, more than the 3 of a pipeline"):
        await world.trigger(pipeline)
    assert (await world.server.pipelines.get(pipeline)).total_runs == 0


async def test_delete_that_races_with_a_trigger(world: World) -> None:
    for _ in range(10):
        pipeline = await world.pipeline(".")
        deleted, triggered = await asyncio.gather(
            world.server.pipelines.delete(pipeline), world.trigger(pipeline), return_exceptions=True
        )
        assert isinstance(deleted, InvalidTransition) != isinstance(triggered, NotFound)


async def test_same_request_is_the_same_run(world: World) -> None:
    pipeline, other = await world.pipeline("."), await world.pipeline(".")
    first = await world.trigger(pipeline, "request-1")
    assert (await world.trigger(pipeline, "request-1")).id == first.id
    assert (await world.trigger(pipeline, "request-2")).id != first.id
    assert (await world.trigger(other, "request-1")).id != first.id
    await world.server.pipelines.update(pipeline, PipelineChange(enabled=False), "alice")
    assert (await world.trigger(pipeline, "request-1")).id == first.id
    for number in range(5):
        runs = await asyncio.gather(*(world.trigger(other, f"race-{number}") for _ in range(4)))
        assert len({run.id for run in runs}) == 1
    assert await world.value("SELECT total_runs FROM pipelines WHERE id = $1", other) == 6


async def test_variables_reach_the_steps(world: World) -> None:
    agent = await world.agent("x")
    spec = replace(shape("."), variables={"MODE": "slow", "LEVEL": "1"})
    pipeline = await world.pipeline(spec)
    trigger = Trigger(TriggerType.EVENT, "hook", "main", "abc", {"MODE": "fast"})
    started = await world.server.runs.trigger(pipeline, trigger)
    run_id, [job_id] = started.run_id, started.job_ids
    await world.server.schedule()
    dispatch = world.take_one(agent)
    step = wire.complete(dispatch)
    assert (step.env["MODE"], step.env["LEVEL"], step.env["ARCENTRA_BRANCH"], step.env["ARCENTRA_COMMIT"]) == (
        "fast",
        "1",
        "main",
        "abc",
    )
    assert (step.job_id, step.command_id, step.attempt) == (str(job_id), str(dispatch.lease_id), 1)
    row = await world.server.runs.get(run_id)
    assert (row.trigger_type, row.triggered_by, row.branch) == (TriggerType.EVENT, "hook", "main")
    with pytest.raises(ValidationError):
        await world.server.runs.trigger(pipeline, Trigger(TriggerType.MANUAL, "", variables={"no name": ""}))


async def test_lists_of_pipelines_and_runs(world: World) -> None:
    first, second = await world.pipeline(".", "one"), await world.pipeline(".", "two")
    await world.server.pipelines.create(NewPipeline(shape("."), namespace="other", name="one"), "tester")
    runs = [await world.trigger(first) for _ in range(3)] + [await world.trigger(second)]
    await world.server.runs.stop(runs[0].id, None, "")
    rows, total = await world.server.pipelines.list_page(
        namespace="default", status=None, page=Page(sort_by="name", descending=False)
    )
    assert ([row.name for row in rows], total) == (["one", "two"], 2)
    page = Page(number=2, size=2, descending=True)
    found, total = await world.server.runs.list_page(pipeline_id=first, namespace="", status=None, page=page)
    assert ([row.id for row in found], total) == ([runs[0].id], 3)
    found, total = await world.server.runs.list_page(
        pipeline_id=None, namespace="default", status=RunStatus.CANCELLED, page=Page()
    )
    assert ([row.id for row in found], total) == ([runs[0].id], 1)
    with pytest.raises(NotFound):
        await world.server.runs.get(UNKNOWN)
