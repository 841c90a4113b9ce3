from dataclasses import replace

import pytest

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.db.pipelines import PipelineRow
from arcentra_server.domain.definition import CronTrigger, JobSpec, ManualTrigger, PipelineSpec, StageSpec, StepSpec
from arcentra_server.domain.definition_json import digest
from arcentra_server.domain.errors import Fault, ValidationError
from arcentra_server.domain.states import RunStatus
from arcentra_server.rpc.convert.pipeline import (
    contract_paths,
    new_pipeline,
    page_of,
    pipeline_change,
    pipeline_to,
)
from arcentra_server.services.pipelines import PipelineChange
from tests.unit.convert.rows import NOW, PIPELINE, SECONDS, ago

STEP_MESSAGE = pipeline_pb2.Step(name="s", uses="shell")
JOB_MESSAGE = pipeline_pb2.Job(name="j", steps=[STEP_MESSAGE])


def test_a_new_pipeline_is_read() -> None:
    request = pipeline_pb2.CreatePipelineRequest(
        namespace="team",
        name="site",
        description="d",
        variables={"A": "1"},
        jobs=[JOB_MESSAGE],
        triggers=[pipeline_pb2.Trigger(type=pipeline_pb2.TRIGGER_TYPE_MANUAL)],
    )
    new = new_pipeline(request)
    assert (new.namespace, new.name, new.description, new.enabled) == ("team", "site", "d", True)
    assert (new.spec.jobs_only, new.spec.variables) == (True, {"A": "1"})


def test_a_pipeline_that_cannot_be_read_names_the_faults_of_its_definition_too() -> None:
    job = pipeline_pb2.Job(name="a b", timeout="x", steps=[pipeline_pb2.Step(name="s", uses="", timeout="y")])
    request = pipeline_pb2.CreatePipelineRequest(name="?", namespace="!", jobs=[job], description="\0")
    with pytest.raises(ValidationError) as caught:
        new_pipeline(request)
    assert [fault.path for fault in caught.value.faults] == [
        "jobs[0].steps[0].timeout",
        "jobs[0].timeout",
        "description",
        "namespace",
        "name",
        "jobs[0].name",
        "jobs[0].steps[0].uses",
    ]


def test_a_change_leaves_out_what_is_empty() -> None:
    nothing = pipeline_change(pipeline_pb2.UpdatePipelineRequest(pipeline_id="x"))
    assert (nothing.stages, nothing.variables, nothing.enabled, nothing.name) == (None, None, None, "")
    change = pipeline_change(pipeline_pb2.UpdatePipelineRequest(enabled=False, jobs=[JOB_MESSAGE], name="b"))
    assert (change.enabled, change.name, change.jobs_only) == (False, "b", True)
    assert change.stages is not None
    assert [stage.name for stage in change.stages] == ["default"]


def test_a_change_of_time_limit_and_triggers_is_read() -> None:
    cron = pipeline_pb2.Trigger(type=pipeline_pb2.TRIGGER_TYPE_CRON)
    cron.options.update({"schedule": "@daily"})
    change = pipeline_change(pipeline_pb2.UpdatePipelineRequest(triggers=[cron], timeout="2h"))
    assert (change.timeout_ms, change.triggers) == (7_200_000, (CronTrigger("@daily"),))
    known = PipelineSpec((StageSpec("a", (JobSpec("j", ()),)),), {"A": "1"}, timeout_ms=5, triggers=(ManualTrigger(),))
    changed = change.apply_to(known)
    assert (changed.stages, changed.variables) == (known.stages, known.variables)
    assert (changed.timeout_ms, changed.triggers) == (7_200_000, (CronTrigger("@daily"),))
    assert PipelineChange().apply_to(known) == known


def test_a_malformed_change_is_refused() -> None:
    request = pipeline_pb2.UpdatePipelineRequest(triggers=[pipeline_pb2.Trigger()], timeout="x")
    with pytest.raises(ValidationError, match=r"^timeout: 'x' is not a duration.*; triggers\[0\]\.type: is required"):
        pipeline_change(request)
    with pytest.raises(ValidationError, match=r"^jobs: give stages or jobs, not both"):
        pipeline_change(
            pipeline_pb2.UpdatePipelineRequest(jobs=[JOB_MESSAGE], stages=[pipeline_pb2.Stage(jobs=[JOB_MESSAGE])])
        )


PATHS = [
    ("triggers[3].schedule", "triggers[3].options.schedule"),
    ("triggers[3].variables['A.type']", "triggers[3].options.variables['A.type']"),
    ("triggers[3].type", "triggers[3].type"),
    ("triggers[3].options.schedule", "triggers[3].options.schedule"),
    ("stages[0].approval.needed", "stages[0].approval.args.needed"),
    ("jobs[0].approval.approvers[1]", "jobs[0].approval.args.approvers[1]"),
    ("jobs[0].approval.args.needed", "jobs[0].approval.args.needed"),
    ("jobs[0].approval.plugin", "jobs[0].approval.plugin"),
    ("jobs[0].env['approval.x']", "jobs[0].env['approval.x']"),
    ("timeout", "timeout"),
]


@pytest.mark.parametrize(("path", "expected"), PATHS)
def test_faults_of_a_call_have_the_paths_of_the_contract(path: str, expected: str) -> None:
    with pytest.raises(ValidationError) as caught, contract_paths():
        raise ValidationError.at(path, "is wrong")
    assert caught.value.faults == (Fault(expected, "is wrong"),)


def test_a_page_is_read_and_limited() -> None:
    page = page_of(pipeline_pb2.ListPipelinesRequest())
    assert (page.number, page.size, page.sort_by, page.descending) == (1, 20, "", True)
    page = page_of(pipeline_pb2.ListPipelineRunsRequest(page=3, page_size=7, sort_by="status"))
    assert (page.number, page.size, page.sort_by, page.descending) == (3, 7, "status", False)
    with pytest.raises(ValidationError, match="page_size"):
        page_of(pipeline_pb2.ListPipelinesRequest(page_size=101))


def test_a_pipeline_is_shown() -> None:
    spec = PipelineSpec((StageSpec("verify", (JobSpec("j", (StepSpec("s", "shell"),)),)),), {"A": "1"})
    spec = replace(spec, timeout_ms=7_200_000, triggers=(ManualTrigger(),))
    row = PipelineRow(
        PIPELINE, "team", "site", "d", True, 2, "anna", ago(9), NOW, 7, 5, 1, RunStatus.FAILED, spec, digest(spec)
    )
    detail = pipeline_to(row)
    assert (detail.pipeline_id, detail.namespace, detail.name, detail.description) == (
        str(PIPELINE),
        "team",
        "site",
        "d",
    )
    assert [stage.name for stage in detail.stages] == ["verify"]
    assert not detail.jobs
    assert (detail.created_at, detail.updated_at) == (SECONDS - 9, SECONDS)
    assert (detail.timeout, [trigger.type for trigger in detail.triggers]) == ("2h", [pipeline_pb2.TRIGGER_TYPE_MANUAL])
    assert detail.spec_digest == digest(spec).hex()
    assert (detail.total_runs, detail.success_runs, detail.failed_runs) == (7, 5, 1)
    assert (detail.status, detail.enabled, detail.spec_version) == (pipeline_pb2.PIPELINE_STATUS_FAILED, True, 2)
    assert dict(detail.variables) == {"A": "1"}
