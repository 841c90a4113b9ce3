"""The order in which a followed run is told."""

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1.stream_pb2 import (
    StreamJobStatusResponse,
    StreamPipelineStatusResponse,
    StreamStepRunStatusResponse,
)
from arcentra_cli.follow.story import OpenLog, Say, Story

QUEUED = steprun_pb2.STEP_RUN_STATUS_QUEUED
RUNNING = steprun_pb2.STEP_RUN_STATUS_RUNNING
SUCCESS = steprun_pb2.STEP_RUN_STATUS_SUCCESS
FAILED = steprun_pb2.STEP_RUN_STATUS_FAILED
SKIPPED = steprun_pb2.STEP_RUN_STATUS_SKIPPED
CANCELLED = steprun_pb2.STEP_RUN_STATUS_CANCELLED


def step(
    status: steprun_pb2.StepRunStatus.ValueType, step_id: str = "s1", **more: object
) -> StreamStepRunStatusResponse:
    message = StreamStepRunStatusResponse(
        step_run_id=step_id, job_id="j1", job_name="build", step_name="compile", status=status
    )
    for name, value in more.items():
        setattr(message, name, value)
    return message


def job(status: pipeline_pb2.PipelineStatus.ValueType, duration: int = 0) -> StreamJobStatusResponse:
    return StreamJobStatusResponse(job_id="j1", job_name="build", status=status, duration=duration)


def test_ends_are_told_after_the_log() -> None:
    story = Story(agents={"a1": "linux-1"})
    assert story.on_step(step(RUNNING, agent_id="a1")) == [
        Say("build/compile", "RUNNING", "on linux-1"),
        OpenLog("s1", "build/compile"),
    ]
    assert story.on_step(step(SUCCESS, duration=3200)) == []
    assert story.on_job(job(pipeline_pb2.PIPELINE_STATUS_SUCCESS, 4000)) == []
    assert story.on_log_end("s1") == [Say("build/compile", "SUCCESS", "in 3.2s"), Say("build", "SUCCESS", "in 4.0s")]
    assert story.closing() == []


def test_a_job_that_ends_before_its_steps_are_heard_of_waits_for_them() -> None:
    story = Story()
    story.on_step(step(QUEUED))
    assert story.on_job(job(pipeline_pb2.PIPELINE_STATUS_CANCELLED)) == []
    assert story.on_step(step(CANCELLED)) == [Say("build/compile", "CANCELLED"), Say("build", "CANCELLED")]


def test_the_same_state_twice_is_told_once() -> None:
    story = Story()
    story.on_step(step(RUNNING))
    assert story.on_step(step(RUNNING)) == []
    story.on_step(step(SUCCESS))
    assert story.on_step(step(RUNNING)) == []
    assert story.on_log_end("s1") == [Say("build/compile", "SUCCESS")]
    assert story.on_step(step(SUCCESS)) == []


def test_logs_of_steps_that_ran_unseen_are_shown_but_not_those_of_the_past() -> None:
    assert OpenLog("s1", "build/compile") in Story().on_step(step(FAILED))
    assert Story(past_steps=["s1"]).on_step(step(FAILED, exit_code=2)) == [Say("build/compile", "FAILED", "exit 2")]
    assert Story().on_step(step(SKIPPED)) == [Say("build/compile", "SKIPPED")]


def test_attempts_have_labels_of_their_own() -> None:
    story = Story()
    story.on_step(step(RUNNING))
    assert OpenLog("s2", "build/compile#2") in story.on_step(step(RUNNING, "s2"))


def test_what_was_not_settled_is_told_at_the_close() -> None:
    story = Story()
    story.on_step(step(RUNNING))
    story.on_step(step(SUCCESS))
    story.on_job(job(pipeline_pb2.PIPELINE_STATUS_SUCCESS))
    assert story.closing() == [Say("build/compile", "SUCCESS"), Say("build", "SUCCESS")]


def test_progress_counts_and_names() -> None:
    story = Story()
    story.on_run(
        StreamPipelineStatusResponse(
            status=pipeline_pb2.PIPELINE_STATUS_RUNNING, total_jobs=3, completed_jobs=1, failed_jobs=1
        )
    )
    story.on_step(step(RUNNING))
    progress = story.progress
    assert (progress.status, progress.completed, progress.total, progress.failed) == ("RUNNING", 1, 3, 1)
    assert progress.active == ("build/compile",)


def test_a_pause_is_told() -> None:
    story = Story()
    assert story.on_run(StreamPipelineStatusResponse(status=pipeline_pb2.PIPELINE_STATUS_PAUSED)) == [
        Say("run", "PAUSED")
    ]
    assert story.on_run(StreamPipelineStatusResponse(status=pipeline_pb2.PIPELINE_STATUS_RUNNING)) == [
        Say("run", "RUNNING")
    ]
