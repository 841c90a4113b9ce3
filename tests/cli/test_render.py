"""Words, tables and summaries."""

import pytest
from rich.console import Console, RenderableType

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli import exit_codes
from arcentra_cli.actions.pipelines import applied
from arcentra_cli.config import OutputFormat
from arcentra_cli.exit_codes import ExitCode
from arcentra_cli.follow.screen import status_line
from arcentra_cli.follow.story import Progress
from arcentra_cli.output import serialise
from arcentra_cli.render import tables, words
from arcentra_cli.render.run import run_report, step_note

NOW = 1_800_000_100.0


def text_of(renderable: RenderableType, width: int = 200) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize(
    ("status", "code"),
    [("SUCCESS", 0), ("FAILED", 1), ("CANCELLED", 3), ("PARTIAL", 4), ("TIMEOUT", 5), ("4711", 1)],
)
def test_exit_codes_of_runs(status: str, code: int) -> None:
    assert exit_codes.of_run(status) == code


def test_help_names_every_exit_code() -> None:
    for code in ExitCode:
        assert f"{int(code)} " in exit_codes.HELP


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0ms"), (999, "999ms"), (3_240, "3.2s"), (59_900, "59.9s"), (245_000, "4m05s"), (7_380_000, "2h03m")],
)
def test_durations(milliseconds: int, text: str) -> None:
    assert words.duration(milliseconds) == text


def test_a_running_thing_lasts_until_now() -> None:
    assert words.span(int(NOW) - 10, 0, 0, NOW) == "10.0s"
    assert words.span(0, 0, 0, NOW) == ""
    assert words.span(5, 7, 2000, NOW) == "2.0s"


def test_a_status_of_a_newer_server_is_its_number() -> None:
    assert words.pipeline_status(999) == "999"
    assert words.pipeline_status(101) == "TIMEOUT"


def test_the_report_of_a_run() -> None:
    run = pipeline_pb2.PipelineRunDetail(
        run_id="r1",
        namespace="default",
        pipeline_name="demo",
        status=pipeline_pb2.PIPELINE_STATUS_FAILED,
        start_time=1,
        end_time=9,
        duration=8_000,
        total_jobs=2,
        completed_jobs=2,
        failed_jobs=1,
    )
    build = run.job_runs.add(job_name="build", status=pipeline_pb2.PIPELINE_STATUS_FAILED)
    build.step_runs.add(
        step_name="compile",
        status=pipeline_pb2.PIPELINE_STATUS_SUCCESS,
        start_time=1,
        end_time=3,
        duration=2_000,
        agent_id="a",
    )
    build.step_runs.add(
        step_name="test", attempt=2, status=pipeline_pb2.PIPELINE_STATUS_FAILED, exit_code=3, failure_reason="script"
    )
    run.job_runs.add(job_name="ship", status=pipeline_pb2.PIPELINE_STATUS_SKIPPED, depends_on=["build"])
    lines = [line.split() for line in text_of(run_report(run, {"a": "linux-1"}, NOW)).splitlines()]
    assert lines == [
        ["JOB", "STEP", "STATUS", "DURATION", "AGENT", "NOTE"],
        ["build", "FAILED"],
        ["compile", "SUCCESS", "2.0s", "linux-1"],
        ["test", "(attempt", "2)", "FAILED", "exit", "3"],
        ["ship", "SKIPPED", "after", "build"],
        [],
        ["run", "r1", "of", "default/demo:", "FAILED", "in", "8.0s,", "2/2", "jobs", "done,", "1", "failed"],
    ]


@pytest.mark.parametrize(
    ("step", "note"),
    [
        (
            pipeline_pb2.StepRunDetail(status=pipeline_pb2.PIPELINE_STATUS_PENDING, waiting_reason="no agent"),
            "no agent",
        ),
        (
            pipeline_pb2.StepRunDetail(status=pipeline_pb2.PIPELINE_STATUS_RUNNING, cancel_requested=True),
            "cancel asked for",
        ),
        (
            pipeline_pb2.StepRunDetail(
                status=pipeline_pb2.PIPELINE_STATUS_FAILED, failure_reason="agent_lost", error_message="no contact"
            ),
            "agent_lost: no contact",
        ),
        (
            pipeline_pb2.StepRunDetail(
                status=pipeline_pb2.PIPELINE_STATUS_FAILED,
                exit_code=2,
                failure_reason="script",
                error_message="a\n\x1b[2Jb",
            ),
            "exit 2: a b",
        ),
        (
            pipeline_pb2.StepRunDetail(
                status=pipeline_pb2.PIPELINE_STATUS_TIMEOUT, failure_reason="timeout", error_message="took over 5s"
            ),
            "took over 5s",
        ),
    ],
)
def test_notes_of_steps(step: pipeline_pb2.StepRunDetail, note: str) -> None:
    assert step_note(step) == note


def test_what_an_apply_did() -> None:
    reply = pipeline_pb2.ApplyPipelineResponse(namespace="default", name="demo", spec_version=2, changed=True)
    assert applied(reply) == "pipeline default/demo changed (version 2)"


def test_markup_in_names_is_text() -> None:
    reply = pipeline_pb2.ListPipelinesResponse(total=1)
    reply.pipelines.add(namespace="default", name="demo", description="[red]", enabled=False)
    assert "disabled" in text_of(tables.pipelines(reply))
    assert text_of(tables.pipelines(pipeline_pb2.ListPipelinesResponse())) == "no pipelines\n"


def test_json_and_yaml_keep_the_contracts_names_and_empty_fields() -> None:
    reply = pipeline_pb2.TriggerPipelineResponse(run_id="r1")
    assert '"run_id": "r1"' in serialise(OutputFormat.JSON, reply)
    assert '"job_run_ids": []' in serialise(OutputFormat.JSON, reply)
    assert "run_id: r1" in serialise(OutputFormat.YAML, reply)


def test_the_status_line_names_some_steps() -> None:
    progress = Progress("RUNNING", 1, 4, 1, tuple(f"job/{n}" for n in range(6)), ())
    line = text_of(status_line(progress, 61.0))
    assert "1/4 jobs, 1 failed" in line
    assert "1m01s" in line
    assert "job/0, job/1, job/2, job/3 +2" in line
