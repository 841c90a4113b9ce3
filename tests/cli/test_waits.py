"""What a followed run says of waits, gates and attempts: once, with names, and only of what waits longer than a moment."""

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1.stream_pb2 import StreamJobStatusResponse, StreamStepRunStatusResponse
from arcentra_cli.follow.story import Look, OpenLog, Say, Story

PENDING = pipeline_pb2.PIPELINE_STATUS_PENDING
RUNNING = pipeline_pb2.PIPELINE_STATUS_RUNNING
SUCCESS = pipeline_pb2.PIPELINE_STATUS_SUCCESS
FAILED = pipeline_pb2.PIPELINE_STATUS_FAILED
QUEUED = steprun_pb2.STEP_RUN_STATUS_QUEUED
S_RUNNING = steprun_pb2.STEP_RUN_STATUS_RUNNING
S_FAILED = steprun_pb2.STEP_RUN_STATUS_FAILED
HELD = "waits for the key prod, held by shop/ship of run r0"


def job(
    status: pipeline_pb2.PipelineStatus.ValueType, waiting: str = "", name: str = "ship", total: int = 1
) -> StreamJobStatusResponse:
    return StreamJobStatusResponse(
        job_id=f"id-{name}", job_name=name, status=status, waiting_reason=waiting, total_steps=total
    )


def step(
    status: steprun_pb2.StepRunStatus.ValueType, attempt: int = 1, *, waiting: str = "", agent: str = ""
) -> StreamStepRunStatusResponse:
    return StreamStepRunStatusResponse(
        step_run_id=f"s{attempt}",
        job_id="id-ship",
        job_name="ship",
        step_name="upload",
        status=status,
        waiting_reason=waiting,
        agent_id=agent,
    )


def run_with(*jobs: pipeline_pb2.JobRunDetail) -> pipeline_pb2.PipelineRunDetail:
    return pipeline_pb2.PipelineRunDetail(run_id="r1", job_runs=jobs)


def waiting_job(reason: str, detail: str = "", name: str = "ship", **fields: object) -> pipeline_pb2.JobRunDetail:
    detailed = pipeline_pb2.JobRunDetail(
        job_run_id=f"id-{name}", job_name=name, status=PENDING, waiting_reason=reason, waiting_detail=detail
    )
    for field, value in fields.items():
        setattr(detailed, field, value)
    return detailed


def look(story: Story, run: pipeline_pb2.PipelineRunDetail) -> list[object]:
    return list(story.on_look(run, story.puzzles))


def test_a_wait_is_told_once_with_the_names_of_what_it_is_for() -> None:
    story = Story()
    assert story.on_job(job(PENDING, "concurrency")) == [Look()]
    held = run_with(waiting_job("concurrency", HELD))
    assert look(story, held) == [Say("ship", "PENDING", HELD)]
    assert story.puzzles == 0
    assert story.on_job(job(PENDING, "concurrency")) == []
    assert look(story, held) == []


def test_another_reason_of_the_same_state_is_told_anew() -> None:
    story = Story()
    story.on_job(job(PENDING, "stage"))
    assert look(story, run_with(waiting_job("stage"))) == [Say("ship", "PENDING", "the stages before it are not done")]
    assert story.on_job(job(PENDING, "needs")) == [Look()]
    needs = run_with(waiting_job("needs", "waits for build, test"))
    assert look(story, needs) == [Say("ship", "PENDING", "waits for build, test")]


def test_what_waits_no_longer_when_it_is_looked_at_is_not_told() -> None:
    story = Story()
    story.on_job(job(PENDING, "concurrency"))
    assert story.on_job(job(RUNNING)) == [Say("ship", "RUNNING")]
    assert story.puzzles == 0
    assert look(story, run_with(waiting_job("concurrency", HELD))) == []


def test_a_wait_that_began_after_the_look_needs_another_look() -> None:
    story = Story()
    story.on_job(job(PENDING, "needs"))
    asked = story.puzzles
    story.on_job(job(PENDING, "concurrency"))
    assert story.on_look(run_with(waiting_job("needs", "waits for build")), asked) == []
    assert story.puzzles
    assert look(story, run_with(waiting_job("concurrency", HELD))) == [Say("ship", "PENDING", HELD)]


def test_jobs_that_wait_for_the_same_are_one_line() -> None:
    story = Story()
    cells = [f"test ({number})" for number in range(6)]
    for name in cells:
        story.on_job(job(PENDING, "needs", name))
    run = run_with(*(waiting_job("needs", "waits for build", name) for name in cells))
    assert look(story, run) == [
        Say("test (0), test (1), test (2), test (3) +2", "PENDING", "waits for build"),
    ]


def test_a_queued_step_says_why_when_it_waits_longer() -> None:
    story = Story()
    assert story.on_step(step(QUEUED, waiting="agent")) == [Look()]
    waits = waiting_job("queue", "waits for an agent")
    waits.step_runs.add(step_run_id="s1", step_name="upload", status=PENDING, waiting_reason="agent")
    assert look(story, run_with(waits)) == [Say("ship/upload", "QUEUED", "waits for an agent")]
    paused = Story()
    paused.on_step(step(QUEUED, waiting="agent"))
    waits.step_runs[0].waiting_reason = "paused"
    assert look(paused, run_with(waits)) == [Say("ship/upload", "QUEUED", "the run is paused")]


def test_a_step_that_was_sent_to_an_agent_is_no_wait() -> None:
    story = Story()
    story.on_step(step(QUEUED, waiting="agent"))
    waits = waiting_job("queue")
    waits.step_runs.add(step_run_id="s1", step_name="upload", status=PENDING, waiting_reason="dispatched")
    assert look(story, run_with(waits)) == []
    assert story.on_step(step(S_RUNNING)) == [Say("ship/upload", "RUNNING"), OpenLog("s1", "ship/upload")]


def test_a_gate_is_told_once_however_many_jobs_wait_at_it() -> None:
    story = Story()
    story.on_job(job(PENDING, "approval", "ship"))
    story.on_job(job(PENDING, "approval", "announce"))
    run = run_with(*(waiting_job("approval", "waits for an approval", name) for name in ("ship", "announce")))
    run.pending_approvals.add(approval_id="01a", stage="release", needed=2, approvers=["ada", "bob"])
    assert look(story, run) == [
        Say(
            "gate before stage release",
            "PENDING",
            "has 0 of 2 approvals by ada, bob: arcentra approval approve 01a, or arcentra approval reject 01a",
        )
    ]
    story.on_job(job(PENDING, "queue", "ship"))
    story.on_job(job(PENDING, "approval", "ship"))
    assert look(story, run) == []


def test_a_gate_after_a_job_is_told_though_the_state_does_not_change() -> None:
    story = Story()
    story.on_job(job(RUNNING))
    assert story.on_job(job(RUNNING, "approval")) == [Look()]
    run = run_with(waiting_job("approval", status=RUNNING))
    run.pending_approvals.add(approval_id="01b", job_name="ship", needed=1)
    [said] = look(story, run)
    assert isinstance(said, Say)
    assert (said.subject, said.status) == ("gate after job ship", "PENDING")
    assert "arcentra approval approve 01b" in said.more


def test_an_attempt_that_begins_later_is_told_with_its_number() -> None:
    story = Story()
    look(story, run_with(waiting_job("queue", max_attempts=3)))
    story.on_step(step(S_RUNNING))
    story.on_job(job(RUNNING))
    story.on_step(step(S_FAILED))
    assert story.on_job(job(PENDING, "queue")) == []
    assert story.on_job(job(PENDING, "retry")) == [Look()]
    story.on_step(step(QUEUED, attempt=2, waiting="agent"))
    again = waiting_job("retry", "attempt 2 begins after a pause", attempt=2, max_attempts=3)
    again.step_runs.add(step_run_id="s2", step_name="upload", status=PENDING, waiting_reason="retry", attempt=2)
    assert look(story, run_with(again)) == [Say("ship", "PENDING", "attempt 2 of 3 begins after a pause")]
    assert story.on_step(step(S_RUNNING, attempt=2)) == [
        Say("ship/upload#2", "RUNNING"),
        OpenLog("s2", "ship/upload#2"),
    ]
    assert story.on_job(job(RUNNING)) == [Say("ship", "RUNNING", "attempt 2 of 3")]


def test_the_end_of_an_attempt_waits_for_its_own_steps() -> None:
    story = Story()
    story.on_job(job(RUNNING, total=2))
    for name in ("upload", "check"):
        ended = step(steprun_pb2.STEP_RUN_STATUS_CANCELLED)
        ended.step_run_id, ended.step_name = name, name
        story.on_step(ended)
    assert story.on_job(job(FAILED, total=2)) == [Say("ship", "FAILED")]
    story.on_job(job(PENDING, "stage", total=2))
    story.on_step(step(steprun_pb2.STEP_RUN_STATUS_CANCELLED, attempt=2))
    assert story.on_job(job(FAILED, total=2)) == []
    assert Say("ship", "FAILED") in story.closing()


def test_a_job_that_runs_again_before_its_end_was_told_has_both_told() -> None:
    story = Story()
    story.on_job(job(RUNNING))
    story.on_step(step(S_RUNNING))
    assert story.on_job(job(FAILED)) == []
    assert story.on_job(job(RUNNING)) == [Say("ship", "FAILED"), Say("ship", "RUNNING")]


def test_the_status_line_tells_of_waits_that_may_last() -> None:
    story = Story()
    story.on_job(job(PENDING, "needs", "test"))
    story.on_job(job(PENDING, "approval", "ship"))
    story.on_step(step(QUEUED))
    assert story.progress.waiting == ("ship waits for an approval", "ship/upload")
    story.on_job(job(SUCCESS, name="ship"))
    assert list(story.progress.waiting) == ["ship/upload"]
