from typing import Any

import pytest

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.db.pipelines import PipelineRow
from arcentra_server.domain.definition import JobSpec, PipelineSpec, StageSpec, StepSpec
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.states import RunStatus, StepStatus, TriggerType
from arcentra_server.rpc.convert.fields import NOT_AVAILABLE
from arcentra_server.rpc.convert.pipeline import (
    new_pipeline,
    page_of,
    pipeline_change,
    pipeline_to,
    run_to,
    trigger_from,
)
from tests.unit.convert.rows import AGENT, JOB, NOW, PIPELINE, RUN, SECONDS, STEP, ago, job_row, run_row, step_row

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
    job = pipeline_pb2.Job(name="a b", timeout="x", steps=[pipeline_pb2.Step(name="s", uses="", when="x")])
    request = pipeline_pb2.CreatePipelineRequest(name="?", namespace="!", jobs=[job], description="\0")
    with pytest.raises(ValidationError) as caught:
        new_pipeline(request)
    assert [fault.path for fault in caught.value.faults] == [
        "jobs[0].steps[0].when",
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


def test_a_change_to_what_is_not_available_is_refused() -> None:
    cron = pipeline_pb2.Trigger(type=pipeline_pb2.TRIGGER_TYPE_CRON)
    with pytest.raises(ValidationError, match=f"^triggers.0..type: CRON {NOT_AVAILABLE}$"):
        pipeline_change(pipeline_pb2.UpdatePipelineRequest(triggers=[cron]))
    with pytest.raises(ValidationError, match=r"^jobs: give stages or jobs, not both"):
        pipeline_change(
            pipeline_pb2.UpdatePipelineRequest(jobs=[JOB_MESSAGE], stages=[pipeline_pb2.Stage(jobs=[JOB_MESSAGE])])
        )


def test_a_trigger_is_read() -> None:
    request = pipeline_pb2.TriggerPipelineRequest(
        branch="feature/a-1", commit_sha="0123abcDEF", variables={"A": "1"}, request_id="k" * 128
    )
    trigger = trigger_from(request, "anna")
    assert (trigger.type, trigger.triggered_by) == (TriggerType.MANUAL, "anna")
    assert (trigger.branch, trigger.commit_sha) == ("feature/a-1", "0123abcDEF")
    assert (trigger.variables, trigger.request_id) == ({"A": "1"}, "k" * 128)
    request.ClearField("request_id")
    request.triggered_by = "a bot"
    assert (trigger_from(request, "anna").triggered_by, trigger_from(request, "anna").request_id) == ("a bot", None)


TRIGGERS: list[tuple[str, str, str]] = [
    ("branch", "--upload-pack=x", "branch: '--upload-pack=x' is not a branch"),
    ("branch", "a b", "branch: 'a b' is not a branch"),
    ("branch", "a\0", "branch: 'a\\x00' is not a branch"),
    ("branch", "x" * 256, f"branch: {'x' * 80!r} is not a branch"),
    ("commit_sha", "HEAD", "commit_sha: 'HEAD' is not a commit: 4 to 64 hexadecimal digits"),
    ("request_id", "k" * 129, "request_id: has 129 characters, more than 128"),
    ("request_id", "\0", "request_id: holds a NUL character"),
    ("triggered_by", "\0", "triggered_by: holds a NUL character"),
]


@pytest.mark.parametrize(("field", "value", "fault"), TRIGGERS)
def test_a_malformed_trigger_is_refused(field: str, value: str, fault: str) -> None:
    fields: dict[str, Any] = {field: value}
    with pytest.raises(ValidationError) as caught:
        trigger_from(pipeline_pb2.TriggerPipelineRequest(**fields), "anna")
    assert str(caught.value) == fault


def test_a_page_is_read_and_limited() -> None:
    page = page_of(pipeline_pb2.ListPipelinesRequest())
    assert (page.number, page.size, page.sort_by, page.descending) == (1, 20, "", True)
    page = page_of(pipeline_pb2.ListPipelineRunsRequest(page=3, page_size=7, sort_by="status"))
    assert (page.number, page.size, page.sort_by, page.descending) == (3, 7, "status", False)
    with pytest.raises(ValidationError, match="page_size"):
        page_of(pipeline_pb2.ListPipelinesRequest(page_size=101))


def test_a_pipeline_is_shown() -> None:
    spec = PipelineSpec((StageSpec("verify", (JobSpec("j", (StepSpec("s", "shell"),)),)),), {"A": "1"})
    row = PipelineRow(
        PIPELINE, "team", "site", "d", True, 2, "anna", ago(9), NOW, 7, 5, 1, RunStatus.FAILED, spec, spec.digest()
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
    assert (detail.total_runs, detail.success_runs, detail.failed_runs) == (7, 5, 1)
    assert (detail.status, detail.enabled, detail.spec_version) == (pipeline_pb2.PIPELINE_STATUS_FAILED, True, 2)
    assert dict(detail.variables) == {"A": "1"}


def test_a_run_is_shown_with_its_jobs_and_steps() -> None:
    step = step_row(
        status=StepStatus.RUNNING, started_at=ago(2.5), agent_id=AGENT, attempt=2, cancel_requested=True, exit_code=None
    )
    job = job_row(step, status=RunStatus.RUNNING, started_at=ago(3), agent_id=AGENT)
    run = run_row(job, status=RunStatus.RUNNING, started_at=ago(3), running_jobs=1, status_reason="why")
    detail = run_to(run)
    assert (detail.run_id, detail.pipeline_id, detail.pipeline_name) == (str(RUN), str(PIPELINE), "site")
    assert (detail.namespace, detail.branch, detail.commit_sha) == ("team", "main", "abcd")
    assert (detail.status, detail.trigger_type) == (
        pipeline_pb2.PIPELINE_STATUS_RUNNING,
        pipeline_pb2.TRIGGER_TYPE_MANUAL,
    )
    assert (detail.start_time, detail.end_time, detail.duration) == (SECONDS - 3, 0, 3_000)
    assert (detail.total_jobs, detail.running_jobs, detail.status_reason, detail.spec_version) == (1, 1, "why", 3)
    (shown,) = detail.job_runs
    assert (shown.job_run_id, shown.job_name, shown.stage, shown.agent_id) == (str(JOB), "build", "verify", str(AGENT))
    assert (shown.duration, shown.waiting_reason) == (3_000, "")
    (shown_step,) = shown.step_runs
    assert (shown_step.step_run_id, shown_step.step_name, shown_step.attempt) == (str(STEP), "compile", 2)
    assert (shown_step.status, shown_step.duration) == (pipeline_pb2.PIPELINE_STATUS_RUNNING, 2_500)
    assert (shown_step.agent_id, shown_step.cancel_requested, shown_step.exit_code) == (str(AGENT), True, 0)


def test_what_has_ended_took_as_long_as_it_ran() -> None:
    ended = {"started_at": ago(50), "finished_at": ago(40)}
    step = step_row(status=StepStatus.CANCELLED, cancel_requested=True, failure_reason="cancelled", **ended)
    job = job_row(step, status=RunStatus.CANCELLED, **ended)
    detail = run_to(run_row(job, status=RunStatus.CANCELLED, **ended))
    (shown,) = detail.job_runs
    (shown_step,) = shown.step_runs
    assert (detail.duration, shown.duration, shown_step.duration) == (10_000, 10_000, 10_000)
    assert (shown_step.cancel_requested, shown_step.failure_reason) == (False, "cancelled")


WAITING: list[tuple[dict[str, object], RunStatus, RunStatus, str]] = [
    ({"status": StepStatus.PENDING}, RunStatus.PENDING, RunStatus.RUNNING, "stage"),
    ({"status": StepStatus.PENDING}, RunStatus.PENDING, RunStatus.PAUSED, "stage"),
    ({"status": StepStatus.QUEUED}, RunStatus.PENDING, RunStatus.PENDING, "queue"),
    ({"status": StepStatus.QUEUED, "leased": True}, RunStatus.PENDING, RunStatus.RUNNING, "queue"),
    ({"status": StepStatus.QUEUED, "paused": True}, RunStatus.PENDING, RunStatus.PAUSED, "paused"),
    (
        {"status": StepStatus.QUEUED, "paused": True, "leased": True},
        RunStatus.PENDING,
        RunStatus.PAUSED,
        "queue",
    ),
    ({"status": StepStatus.QUEUED, "step_index": 1}, RunStatus.RUNNING, RunStatus.RUNNING, ""),
    ({"status": StepStatus.SKIPPED}, RunStatus.SKIPPED, RunStatus.FAILED, ""),
]


@pytest.mark.parametrize(("step", "job", "run", "reason"), WAITING)
def test_a_job_says_why_it_waits(step: dict[str, object], job: RunStatus, run: RunStatus, reason: str) -> None:
    row = run_row(job_row(step_row(status=StepStatus.FAILED), step_row(**step), status=job), status=run)
    assert run_to(row).job_runs[0].waiting_reason == reason
