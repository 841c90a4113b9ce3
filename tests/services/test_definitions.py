"""Definitions in the database: versions, what an update may change, and what is said about one."""

import json
from dataclasses import replace
from uuid import UUID

import pytest

from arcentra_server.domain.definition import (
    CronTrigger,
    EventTrigger,
    JobSpec,
    MatrixSpec,
    PipelineSpec,
    StageSpec,
    StepSpec,
)
from arcentra_server.domain.definition_json import digest, to_json
from arcentra_server.domain.errors import Fault, ValidationError
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.services.pipelines import NewPipeline, PipelineChange
from tests.support.world import World

STEP = StepSpec("s", "shell", args={"script": "make"})
JOB = JobSpec("j", (STEP,))
SPEC = PipelineSpec((StageSpec("default", (JOB,)),), jobs_only=True)
ARM = Selector((Term("arch", Operator.IN, ("arm64",)),))


async def versions(world: World, pipeline_id: UUID) -> list[int]:
    rows = await world.sql("SELECT version FROM pipeline_specs WHERE pipeline_id = $1 ORDER BY 1", pipeline_id)
    return [row["version"] for row in rows]


async def test_the_whole_model_survives_the_database(world: World) -> None:
    matrix = MatrixSpec((("os", ("linux", 3, True)),), ({"os": "mac", "x": 1.5},), ({"os": 3},))
    spec = replace(
        SPEC,
        stages=(StageSpec("default", (replace(JOB, matrix=matrix, selector=ARM, outputs={"a": "b"}),)),),
        timeout_ms=5,
        triggers=(CronTrigger("@daily", "Europe/Berlin"), EventTrigger(("push",), branches=("main",))),
    )
    pipeline_id = await world.server.pipelines.create(NewPipeline(spec), "tester")
    row = await world.server.pipelines.get(pipeline_id)
    assert row.spec == spec
    assert row.digest == digest(spec)


async def test_an_update_of_triggers_or_the_time_limit_keeps_the_rest(world: World) -> None:
    pipelines = world.server.pipelines
    start = replace(SPEC, variables={"A": "1"}, timeout_ms=1_000, triggers=(CronTrigger("@daily"),))
    pipeline_id = await pipelines.create(NewPipeline(start), "tester")
    await pipelines.update(pipeline_id, PipelineChange(timeout_ms=2_000), "tester")
    assert (await pipelines.get(pipeline_id)).spec == replace(start, timeout_ms=2_000)
    await pipelines.update(pipeline_id, PipelineChange(triggers=(EventTrigger(("push",)),)), "tester")
    expected = replace(start, timeout_ms=2_000, triggers=(EventTrigger(("push",)),))
    assert (await pipelines.get(pipeline_id)).spec == expected
    assert await versions(world, pipeline_id) == [1, 2, 3]


async def test_a_faulty_update_changes_nothing(world: World) -> None:
    pipelines = world.server.pipelines
    pipeline_id = await pipelines.create(NewPipeline(SPEC, name="site"), "tester")
    broken = PipelineChange(stages=(StageSpec("a", (replace(JOB, depends_on=("j",)),)),), name="other")
    with pytest.raises(ValidationError, match="cannot depend on itself"):
        await pipelines.update(pipeline_id, broken, "tester")
    row = await pipelines.get(pipeline_id)
    assert (row.name, row.spec, row.spec_version) == ("site", SPEC, 1)


async def test_a_definition_stored_in_an_earlier_form_makes_no_new_version(world: World) -> None:
    pipelines = world.server.pipelines
    pipeline_id = await pipelines.create(NewPipeline(SPEC, name="site"), "tester")
    document = to_json(SPEC)
    job = document["stages"][0]["jobs"][0]
    job |= {"description": "", "env": {}, "timeout_ms": None, "source": None, "selector": None}
    job["steps"][0] |= {"action": "", "env": {}, "continue_on_error": False, "timeout_ms": None, "selector": None}
    job["steps"][0]["run_on_agent"] = True
    document["variables"] = {}
    await world.sql("UPDATE pipeline_specs SET document = $1, digest = $2", json.loads(json.dumps(document)), b"old")
    applied = await pipelines.apply(NewPipeline(SPEC, name="site"), "tester")
    assert (applied.changed, applied.pipeline.spec) == (False, SPEC)
    assert await versions(world, pipeline_id) == [1]


async def test_what_may_keep_a_run_from_running_is_said(world: World) -> None:
    examine = world.server.pipelines.examine
    spec = replace(
        SPEC,
        variables={"API_TOKEN": "x"},
        stages=(StageSpec("default", (replace(JOB, selector=ARM, matrix=MatrixSpec((("a", (1, 2)),))),)),),
    )
    examined = await examine(spec)
    assert (examined.total_jobs, examined.total_steps) == (2, 2)
    assert [fault.path for fault in examined.warnings] == ["variables['API_TOKEN']", ""]
    agent = await world.agent("x", arch="amd64")
    message = "no registered agent can serve this job: nearest is `x`, which lacks arch=arm64"
    assert (await examine(spec)).warnings[1:] == (Fault("jobs[0].agent_selector", message),)
    await world.sql("UPDATE agents SET server_labels = $2 WHERE id = $1", agent, {"arch": "arm64"})
    assert len((await examine(spec)).warnings) == 1


async def test_a_pipeline_older_than_a_check_can_still_be_renamed(world: World) -> None:
    pipelines = world.server.pipelines
    pipeline_id = await pipelines.create(NewPipeline(SPEC, name="site"), "tester")
    old = to_json(replace(SPEC, variables={"A": "AKIA" + "A" * 16}))
    await world.sql("UPDATE pipeline_specs SET document = $1", old)
    await pipelines.update(pipeline_id, PipelineChange(name="renamed"), "tester")
    assert (await pipelines.get(pipeline_id)).name == "renamed"
    with pytest.raises(ValidationError, match="holds an AWS key in clear"):
        await pipelines.update(pipeline_id, PipelineChange(timeout_ms=1_000), "tester")
