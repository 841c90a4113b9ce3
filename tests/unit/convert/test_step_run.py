from typing import Any
from uuid import UUID

import pytest

from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_server.db.artifacts import ArtifactRow
from arcentra_server.db.step_runs import StepFilter
from arcentra_server.domain.definition import ArtifactSpec, StepSpec
from arcentra_server.domain.errors import NotFound, ValidationError
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.domain.states import StepStatus
from arcentra_server.rpc.convert.step_run import added_step, artifact_to, new_timeout, page_of, step_filter, step_run_to
from tests.unit.convert.rows import AGENT, JOB, NOW, PIPELINE, RUN, SECONDS, STEP, ago, step_row


def creation(**changed: Any) -> steprun_pb2.CreateStepRunRequest:
    fields: dict[str, Any] = {"pipeline_run_id": str(RUN), "job_name": "extra", "step_name": "s", "uses": "shell"}
    return steprun_pb2.CreateStepRunRequest(**{**fields, **changed})


def test_a_step_to_add_is_read() -> None:
    request = creation(
        pipeline_id=str(PIPELINE),
        job_id=str(JOB),
        action="script",
        args={"script": "make", "jobs": 2},
        env={"A": "1"},
        timeout="90s",
        continue_on_error=True,
        agent_selector=steprun_pb2.AgentSelector(match_labels={"os": "linux"}),
        step_index=7,
    )
    added = added_step(request)
    assert (added.run_id, added.pipeline_id, added.job_id, added.job_name) == (RUN, PIPELINE, JOB, "extra")
    assert added.spec == StepSpec(
        "s",
        "shell",
        "script",
        {"script": "make", "jobs": 2},
        {"A": "1"},
        continue_on_error=True,
        timeout_ms=90_000,
        selector=Selector((Term("os", Operator.IN, ("linux",)),)),
        run_on_agent=False,
    )


def test_all_that_a_step_can_have_is_read() -> None:
    added = added_step(
        creation(
            when="always()",
            image="python:3.12",
            secrets={"TOKEN": "DEPLOY"},
            artifacts=[
                steprun_pb2.ArtifactConfig(name="a", path="dist/*", destination="d", expire=True, expire_days=7),
                steprun_pb2.ArtifactConfig(name="b", path="x", expire_days=7),
            ],
            run_on_agent=True,
        )
    )
    assert added.spec == StepSpec(
        "s",
        "shell",
        when="always()",
        image="python:3.12",
        secrets={"TOKEN": "DEPLOY"},
        artifacts=(ArtifactSpec("a", "dist/*", "d", 7), ArtifactSpec("b", "x")),
    )


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"workspace": "sub"}, "workspace: cannot be chosen: the step runs in the workspace of its job"),
    (
        {"plugins": [steprun_pb2.PluginInfo(name="p")]},
        "plugins: cannot be pinned here: write the version into `uses`, as in shell@1.2",
    ),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_cannot_be_carried_out_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        added_step(creation(**fields))
    assert str(caught.value) == message


def test_a_step_needs_a_run_and_names_all_faults() -> None:
    with pytest.raises(ValidationError) as caught:
        added_step(creation(pipeline_run_id="", workspace="x", timeout="soon"))
    assert [fault.path for fault in caught.value.faults] == ["workspace", "pipeline_run_id", "timeout"]


@pytest.mark.parametrize("field", ["pipeline_run_id", "pipeline_id", "job_id"])
def test_what_is_no_id_is_not_found(field: str) -> None:
    with pytest.raises(NotFound, match="'nonsense' not found"):
        added_step(creation(**{field: "nonsense"}))


def test_a_filter_is_read() -> None:
    assert step_filter(steprun_pb2.ListStepRunsRequest()) == StepFilter()
    request = steprun_pb2.ListStepRunsRequest(
        pipeline_id=str(PIPELINE),
        pipeline_run_id=str(RUN),
        job_id=str(JOB),
        job_name="build",
        step_name="compile",
        status=steprun_pb2.STEP_RUN_STATUS_QUEUED,
        agent_id=str(AGENT),
        page=2,
    )
    assert step_filter(request) == StepFilter(PIPELINE, RUN, JOB, "build", "compile", StepStatus.QUEUED, AGENT)
    assert page_of(request).number == 2


@pytest.mark.parametrize("field", ["pipeline_id", "pipeline_run_id", "job_id", "agent_id"])
def test_a_filter_by_what_is_no_id_is_refused(field: str) -> None:
    fields: dict[str, Any] = {field: "nonsense"}
    with pytest.raises(ValidationError, match=f"^{field}: 'nonsense' is not an id$"):
        step_filter(steprun_pb2.ListStepRunsRequest(**fields))


@pytest.mark.parametrize("field", ["job_name", "step_name"])
def test_a_filter_holds_no_nul(field: str) -> None:
    fields: dict[str, Any] = {field: "\0"}
    with pytest.raises(ValidationError, match=f"^{field}: holds a NUL character$"):
        step_filter(steprun_pb2.ListStepRunsRequest(**fields))


def test_an_empty_time_limit_stays_as_it_is() -> None:
    assert new_timeout(steprun_pb2.UpdateStepRunRequest()) is None
    assert new_timeout(steprun_pb2.UpdateStepRunRequest(timeout="2m")) == 120_000
    with pytest.raises(ValidationError, match=r"^timeout: 'soon' is not a duration"):
        new_timeout(steprun_pb2.UpdateStepRunRequest(timeout="soon"))


def test_a_step_run_is_shown() -> None:
    row = step_row(
        status=StepStatus.FAILED,
        attempt=2,
        agent_id=AGENT,
        agent_labels={"os": "linux"},
        exit_code=3,
        error_message="no rule",
        failure_reason="script",
        metrics={"cpu": "1"},
        started_at=ago(10),
        finished_at=ago(4),
        log_size=99,
        cancel_requested=True,
    )
    detail = step_run_to(row)
    assert (detail.step_run_id, detail.pipeline_id, detail.pipeline_run_id, detail.job_id) == tuple(
        map(str, (STEP, PIPELINE, RUN, JOB))
    )
    assert (detail.job_name, detail.step_name, detail.uses, detail.action) == ("build", "compile", "shell", "script")
    assert (dict(detail.args), dict(detail.env), detail.timeout) == ({"script": "make"}, {"A": "1"}, "1m30s")
    assert dict(detail.agent_selector.match_labels) == {"os": "linux"}
    assert [term.key for term in detail.agent_selector.match_expressions] == ["gpu"]
    assert (detail.status, detail.attempt, detail.exit_code) == (steprun_pb2.STEP_RUN_STATUS_FAILED, 2, 3)
    assert (detail.error_message, detail.failure_reason) == ("no rule", "script")
    assert (detail.agent_id, dict(detail.agent_labels)) == (str(AGENT), {"os": "linux"})
    assert (detail.created_at, detail.started_at, detail.finished_at) == (SECONDS - 60, SECONDS - 10, SECONDS - 4)
    assert (detail.duration, detail.log_size, dict(detail.metrics)) == (6_000, 99, {"cpu": "1"})
    assert (detail.continue_on_error, detail.run_on_agent, detail.created_by) == (True, True, "anna")
    assert (detail.cancel_requested, detail.waiting_reason) == (False, "")


def test_a_step_run_that_waits_says_why_and_has_taken_no_time() -> None:
    detail = step_run_to(step_row(status=StepStatus.QUEUED))
    assert (detail.waiting_reason, detail.duration, detail.started_at, detail.agent_id) == ("agent", 0, 0, "")


def test_an_artifact_is_shown() -> None:
    row = ArtifactRow(UUID(int=9), "wheel", "dist", "https://example.test/w", 12, NOW, None)
    assert artifact_to(row) == steprun_pb2.Artifact(
        artifact_id=str(UUID(int=9)),
        name="wheel",
        path="dist",
        size=12,
        download_url="https://example.test/w",
        created_at=SECONDS,
    )
