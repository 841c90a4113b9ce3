"""The servicers on real services and a real database: what a caller sends, and what it is told."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_server.domain.errors import NotFound, ValidationError
from arcentra_server.domain.identity import Caller, Role
from arcentra_server.rpc.context import CALLER, Context
from arcentra_server.rpc.servicers.pipeline import PipelineServicer
from arcentra_server.rpc.servicers.step_run import StepRunServicer
from arcentra_server.services.triggers import TriggerService
from tests.support.world import World

NO_CONTEXT = cast("Context", None)
NOBODY = "00000000-0000-7000-8000-000000000000"
DOCUMENT = """
name: site
variables: {A: 1}
jobs:
  - name: build
    steps:
      - {name: compile, uses: shell, args: {script: make}}
      - {name: pack, uses: shell}
"""


@pytest.fixture
async def world(dsn: str) -> AsyncIterator[World]:
    async with World(dsn) as world:
        yield world


@pytest.fixture(autouse=True)
def _called_by_anna() -> None:
    CALLER.set(Caller("t1", "anna", Role.ADMIN))


@pytest.fixture
def pipelines(world: World) -> PipelineServicer:
    server = world.server
    return PipelineServicer(
        server.pipelines,
        server.runs,
        server.approvals,
        server.concurrency,
        server.notifier,
        TriggerService(world.database),
    )


@pytest.fixture
def steps(world: World) -> StepRunServicer:
    return StepRunServicer(world.server.steps, world.server.explain)


async def apply(pipelines: PipelineServicer, document: str = DOCUMENT) -> pipeline_pb2.ApplyPipelineResponse:
    request = pipeline_pb2.ApplyPipelineRequest(document=document, namespace="team")
    return await pipelines.ApplyPipeline(request, NO_CONTEXT)


async def trigger(pipelines: PipelineServicer, **fields: Any) -> str:
    applied = await apply(pipelines)
    request = pipeline_pb2.TriggerPipelineRequest(pipeline_id=applied.pipeline_id, **fields)
    return (await pipelines.TriggerPipeline(request, NO_CONTEXT)).run_id


async def run_of(pipelines: PipelineServicer, run_id: str) -> pipeline_pb2.PipelineRunDetail:
    request = pipeline_pb2.GetPipelineRunRequest(run_id=run_id)
    return (await pipelines.GetPipelineRun(request, NO_CONTEXT)).run


async def test_a_document_is_applied_once_and_again(pipelines: PipelineServicer) -> None:
    first = await apply(pipelines)
    assert (first.created, first.changed, first.spec_version) == (True, True, 1)
    assert (first.namespace, first.name) == ("team", "site")
    again = await apply(pipelines)
    assert (again.pipeline_id, again.created, again.changed) == (first.pipeline_id, False, False)
    changed = await apply(pipelines, DOCUMENT.replace("make", "make all"))
    assert (changed.created, changed.changed, changed.spec_version) == (False, True, 2)


async def test_a_pipeline_is_made_found_changed_listed_and_deleted(pipelines: PipelineServicer) -> None:
    job = pipeline_pb2.Job(name="j", steps=[pipeline_pb2.Step(name="s", uses="shell")])
    created = await pipelines.CreatePipeline(
        pipeline_pb2.CreatePipelineRequest(name="site", jobs=[job], created_by="a bot"), NO_CONTEXT
    )
    assert created.success
    by_name = pipeline_pb2.GetPipelineRequest(name="site")
    found = (await pipelines.GetPipeline(by_name, NO_CONTEXT)).pipeline
    assert (found.pipeline_id, found.created_by, found.namespace) == (created.pipeline_id, "a bot", "default")
    assert [item.name for item in found.jobs] == ["j"]
    update = pipeline_pb2.UpdatePipelineRequest(pipeline_id=created.pipeline_id, enabled=False, variables={"A": "1"})
    assert (await pipelines.UpdatePipeline(update, NO_CONTEXT)).success
    listed = await pipelines.ListPipelines(pipeline_pb2.ListPipelinesRequest(), NO_CONTEXT)
    assert (listed.total, listed.page, listed.page_size) == (1, 1, 20)
    assert (listed.pipelines[0].enabled, dict(listed.pipelines[0].variables)) == (False, {"A": "1"})
    delete = pipeline_pb2.DeletePipelineRequest(pipeline_id=created.pipeline_id)
    assert (await pipelines.DeletePipeline(delete, NO_CONTEXT)).success
    with pytest.raises(NotFound):
        await pipelines.GetPipeline(pipeline_pb2.GetPipelineRequest(pipeline_id=created.pipeline_id), NO_CONTEXT)


async def test_a_run_is_started_paused_resumed_and_stopped(pipelines: PipelineServicer) -> None:
    run_id = await trigger(pipelines, branch="main", variables={"A": "2"})
    run = await run_of(pipelines, run_id)
    assert (run.triggered_by, run.branch, dict(run.variables), run.pipeline_name) == (
        "anna",
        "main",
        {"A": "2"},
        "site",
    )
    assert [job.waiting_reason for job in run.job_runs] == ["queue"]
    assert [step.waiting_reason for step in run.job_runs[0].step_runs] == ["agent", "previous_step"]
    await pipelines.PausePipeline(pipeline_pb2.PausePipelineRequest(run_id=run_id, reason="lunch"), NO_CONTEXT)
    run = await run_of(pipelines, run_id)
    assert (run.status, run.status_reason) == (pipeline_pb2.PIPELINE_STATUS_PAUSED, "lunch")
    assert run.job_runs[0].waiting_reason == "paused"
    await pipelines.ResumePipeline(pipeline_pb2.ResumePipelineRequest(run_id=run_id), NO_CONTEXT)
    assert (await run_of(pipelines, run_id)).status == pipeline_pb2.PIPELINE_STATUS_PENDING
    await pipelines.StopPipeline(pipeline_pb2.StopPipelineRequest(run_id=run_id, reason="enough"), NO_CONTEXT)
    listed = await pipelines.ListPipelineRuns(
        pipeline_pb2.ListPipelineRunsRequest(status=pipeline_pb2.PIPELINE_STATUS_CANCELLED), NO_CONTEXT
    )
    assert [(item.run_id, item.status_reason, len(item.job_runs)) for item in listed.runs] == [(run_id, "enough", 0)]


async def test_a_request_id_starts_one_run(pipelines: PipelineServicer) -> None:
    assert await trigger(pipelines, request_id="k") == await trigger(pipelines, request_id="k")
    assert await trigger(pipelines) != await trigger(pipelines)


async def test_step_runs_are_found_changed_cancelled_and_retried(
    pipelines: PipelineServicer, steps: StepRunServicer
) -> None:
    run_id = await trigger(pipelines)
    step_id = (await run_of(pipelines, run_id)).job_runs[0].step_runs[0].step_run_id
    update = steprun_pb2.UpdateStepRunRequest(step_run_id=step_id, env={"B": "2"}, timeout="1m")
    await steps.UpdateStepRun(update, NO_CONTEXT)
    found = (await steps.GetStepRun(steprun_pb2.GetStepRunRequest(step_run_id=step_id), NO_CONTEXT)).step_run
    assert (found.env["A"], found.env["B"], found.timeout, found.args["script"]) == ("1", "2", "1m", "make")
    await steps.CancelStepRun(steprun_pb2.CancelStepRunRequest(step_run_id=step_id), NO_CONTEXT)
    retried = await steps.RetryStepRun(steprun_pb2.RetryStepRunRequest(step_run_id=step_id), NO_CONTEXT)
    listed = await steps.ListStepRuns(
        steprun_pb2.ListStepRunsRequest(pipeline_run_id=run_id, step_name="compile"), NO_CONTEXT
    )
    assert {item.step_run_id: item.attempt for item in listed.step_runs} == {step_id: 1, retried.new_step_run_id: 2}
    artifacts = await steps.ListStepRunArtifacts(
        steprun_pb2.ListStepRunArtifactsRequest(step_run_id=step_id), NO_CONTEXT
    )
    assert (artifacts.success, len(artifacts.artifacts)) == (True, 0)


async def test_a_waiting_step_is_explained(world: World, pipelines: PipelineServicer, steps: StepRunServicer) -> None:
    agent = await world.agent("busy")
    await world.sql("UPDATE agents SET lease_until = NULL WHERE id = $1", agent)
    job = (await run_of(pipelines, await trigger(pipelines))).job_runs[0]
    first, second = (step.step_run_id for step in job.step_runs)
    found = await steps.ExplainStepRun(steprun_pb2.ExplainStepRunRequest(step_run_id=first), NO_CONTEXT)
    assert (found.status, found.waiting_reason) == (steprun_pb2.STEP_RUN_STATUS_QUEUED, "agent")
    assert (found.queue_rank, found.queue_length, found.waiting_since > 0) == (1, 1, True)
    assert found.scheduling_reason == "agents_offline"
    assert found.summary == "the agent `busy` that can serve it is offline"
    [verdict] = found.agents
    assert (verdict.agent_id, verdict.name, verdict.can_take) == (str(agent), "busy", False)
    assert [(one.reason, one.since > 0) for one in verdict.obstacles] == [("offline", True)]
    found = await steps.ExplainStepRun(steprun_pb2.ExplainStepRunRequest(step_run_id=second), NO_CONTEXT)
    assert [(one.kind, one.job_run_id) for one in found.blockers] == [("previous_step", job.job_run_id)]


async def test_a_step_is_added_and_removed(pipelines: PipelineServicer, steps: StepRunServicer) -> None:
    run_id = await trigger(pipelines)
    request = steprun_pb2.CreateStepRunRequest(pipeline_run_id=run_id, job_name="extra", step_name="look", uses="shell")
    request.args.update({"script": "ls"})
    step_id = (await steps.CreateStepRun(request, NO_CONTEXT)).step_run_id
    added = (await steps.GetStepRun(steprun_pb2.GetStepRunRequest(step_run_id=step_id), NO_CONTEXT)).step_run
    assert (added.job_name, added.step_name, added.created_by) == ("extra", "look", "anna")
    await steps.CancelStepRun(steprun_pb2.CancelStepRunRequest(step_run_id=step_id), NO_CONTEXT)
    await steps.DeleteStepRun(steprun_pb2.DeleteStepRunRequest(step_run_id=step_id), NO_CONTEXT)
    with pytest.raises(NotFound):
        await steps.GetStepRun(steprun_pb2.GetStepRunRequest(step_run_id=step_id), NO_CONTEXT)


ID_FIELDS: list[tuple[str, str]] = [
    ("UpdatePipeline", "pipeline_id"),
    ("GetPipeline", "pipeline_id"),
    ("DeletePipeline", "pipeline_id"),
    ("TriggerPipeline", "pipeline_id"),
    ("StopPipeline", "run_id"),
    ("PausePipeline", "run_id"),
    ("ResumePipeline", "run_id"),
    ("GetPipelineRun", "run_id"),
    ("GetStepRun", "step_run_id"),
    ("UpdateStepRun", "step_run_id"),
    ("DeleteStepRun", "step_run_id"),
    ("CancelStepRun", "step_run_id"),
    ("RetryStepRun", "step_run_id"),
    ("ListStepRunArtifacts", "step_run_id"),
]


async def test_ids_that_are_missing_malformed_or_unknown_are_refused(
    pipelines: PipelineServicer, steps: StepRunServicer
) -> None:
    for method, field in ID_FIELDS:
        package: Any = steprun_pb2 if "StepRun" in method else pipeline_pb2
        call = getattr(steps if "StepRun" in method else pipelines, method)
        request = getattr(package, f"{method}Request")
        with pytest.raises(ValidationError, match=rf"^{field}: is required"):
            await call(request(), NO_CONTEXT)
        for unknown in ("nonsense", NOBODY):
            with pytest.raises(NotFound, match=f"'{unknown}' not found$"):
                await call(request(**{field: unknown}), NO_CONTEXT)


FILTERS: list[tuple[str, Any, str]] = [
    ("ListPipelines", pipeline_pb2.ListPipelinesRequest(status=77), "status"),  # type: ignore[arg-type]
    ("ListPipelines", pipeline_pb2.ListPipelinesRequest(sort_by="spec"), "sort_by"),
    ("ListPipelines", pipeline_pb2.ListPipelinesRequest(namespace="\0"), "namespace"),
    ("ListPipelineRuns", pipeline_pb2.ListPipelineRunsRequest(pipeline_id="nonsense"), "pipeline_id"),
    ("ListPipelineRuns", pipeline_pb2.ListPipelineRunsRequest(page=-1), "page"),
    ("GetPipeline", pipeline_pb2.GetPipelineRequest(name="\0"), "name"),
    ("CreatePipeline", pipeline_pb2.CreatePipelineRequest(created_by="\0"), "created_by"),
    ("StopPipeline", pipeline_pb2.StopPipelineRequest(run_id=NOBODY, reason="\0"), "reason"),
    ("PausePipeline", pipeline_pb2.PausePipelineRequest(run_id=NOBODY, operator="\0"), "operator"),
]


async def test_malformed_fields_are_refused_at_their_path(pipelines: PipelineServicer) -> None:
    for method, request, field in FILTERS:
        with pytest.raises(ValidationError, match=rf"^{field}: "):
            await getattr(pipelines, method)(request, NO_CONTEXT)


async def test_a_run_of_another_pipeline_is_not_found(pipelines: PipelineServicer) -> None:
    run_id = await trigger(pipelines)
    for pipeline_id in (NOBODY, "nonsense"):
        with pytest.raises(NotFound):
            await pipelines.StopPipeline(
                pipeline_pb2.StopPipelineRequest(run_id=run_id, pipeline_id=pipeline_id), NO_CONTEXT
            )
