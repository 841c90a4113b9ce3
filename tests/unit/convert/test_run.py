from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.identity import Caller, Role
from arcentra_server.domain.states import RunStatus, StepStatus, TriggerType
from arcentra_server.rpc.convert.run import run_to, trigger_from
from tests.unit.convert.rows import AGENT, JOB, PIPELINE, RUN, SECONDS, STEP, ago, job_row, run_row, step_row

ANNA = Caller("t1", "anna", Role.ADMIN)


def test_a_trigger_is_read() -> None:
    request = pipeline_pb2.TriggerPipelineRequest(
        branch="feature/a-1", commit_sha="0123abcDEF", variables={"A": "1"}, request_id="k" * 128
    )
    trigger = trigger_from(request, ANNA)
    assert (trigger.type, trigger.triggered_by) == (TriggerType.MANUAL, "anna")
    assert (trigger.branch, trigger.commit_sha) == ("feature/a-1", "0123abcDEF")
    assert (trigger.variables, trigger.request_id) == ({"A": "1"}, "k" * 128)
    request.ClearField("request_id")
    request.triggered_by = "a bot"
    assert (trigger_from(request, ANNA).triggered_by, trigger_from(request, ANNA).request_id) == ("a bot", None)


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
        trigger_from(pipeline_pb2.TriggerPipelineRequest(**fields), ANNA)
    assert str(caught.value) == fault


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


def test_a_run_with_a_number_in_its_event_that_no_double_holds_is_shown() -> None:
    event = {"payload": {"n": [10**400, 2**70, 3, True, None, "x", 1.5]}}
    message = run_to(run_row(event=event, jobs=(job_row(),)))
    shown = MessageToDict(message.event)
    assert shown == {"payload": {"n": [str(10**400), float(2**70), 3.0, True, None, "x", 1.5]}}
