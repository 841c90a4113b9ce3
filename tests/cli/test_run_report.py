"""A run as `run show` has it: why things wait, which attempt it is, what failed and what came out."""

from typing import Any

import pytest

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_cli.render import waiting
from arcentra_cli.render.explain import explanation, run_explanation
from arcentra_cli.render.run import job_note, run_report, step_note
from tests.cli.test_render import NOW, text_of

PENDING = pipeline_pb2.PIPELINE_STATUS_PENDING
RUNNING = pipeline_pb2.PIPELINE_STATUS_RUNNING
SUCCESS = pipeline_pb2.PIPELINE_STATUS_SUCCESS
FAILED = pipeline_pb2.PIPELINE_STATUS_FAILED
TIMEOUT = pipeline_pb2.PIPELINE_STATUS_TIMEOUT
HELD = "waits for the key prod, held by shop/ship of run r0"
GATES = [
    pipeline_pb2.ApprovalDetail(approval_id="01a", stage="release", needed=2, approvers=["ada", "bob"]),
    pipeline_pb2.ApprovalDetail(approval_id="01b", job_name="build", needed=1),
]


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"waiting_reason": "stage"}, "the stages before it are not done"),
        ({"waiting_reason": "needs", "waiting_detail": "waits for build, test"}, "waits for build, test"),
        ({"waiting_reason": "concurrency", "waiting_detail": HELD}, HELD),
        (
            {"waiting_reason": "approval", "waiting_detail": "waits for an approval", "stage": "release"},
            "waits for an approval: arcentra approval approve 01a",
        ),
        (
            {"waiting_reason": "approval", "status": RUNNING, "stage": "verify", "job_name": "build"},
            "waits for an approval: arcentra approval approve 01b",
        ),
        ({"waiting_reason": "approval", "waiting_detail": "waits for an approval"}, "waits for an approval"),
        ({"waiting_reason": "retry", "attempt": 2, "max_attempts": 3}, "attempt 2 of 3 begins after a pause"),
        ({"waiting_reason": "retry", "attempt": 2}, "attempt 2 begins after a pause"),
        ({"waiting_reason": "queue"}, "waits for an agent"),
        ({"waiting_reason": "paused"}, "the run is paused"),
        ({"waiting_reason": "moonrise"}, "moonrise"),
        ({"status": FAILED, "failure_reason": "script", "exit_code": 3}, "exit 3"),
        (
            {"status": FAILED, "failure_reason": "rejected", "error_message": "the approval was refused"},
            "rejected: the approval was refused",
        ),
        (
            {"status": TIMEOUT, "failure_reason": "timeout", "error_message": "took over 5s", "allow_failure": True},
            "took over 5s; tolerated",
        ),
        (
            {"status": SUCCESS, "allow_failure": True, "outputs": {"b": "1\n\x1b[2J2", "a": "x" * 70}},
            f"outputs a={'x' * 60}..., b=1 2",
        ),
        ({"status": SUCCESS, "error_message": "outputs.size: no\nsuch key"}, "outputs.size: no such key"),
        ({"status": pipeline_pb2.PIPELINE_STATUS_SKIPPED, "error_message": "not needed"}, "not needed"),
        ({"status": RUNNING, "depends_on": list("abcdef")}, "after a, b, c, d +2"),
    ],
)
def test_notes_of_jobs(fields: dict[str, Any], note: str) -> None:
    job = pipeline_pb2.JobRunDetail(**{"job_name": "ship", "status": PENDING, **fields})
    assert job_note(job, GATES) == note


def test_what_a_step_says_its_job_does_not_say_again() -> None:
    job = pipeline_pb2.JobRunDetail(status=FAILED, failure_reason="agent_lost", error_message="no contact")
    job.step_runs.add(status=FAILED, failure_reason="agent_lost", error_message="no contact")
    assert job_note(job, []) == "agent_lost"
    assert step_note(job.step_runs[0]) == "agent_lost: no contact"


@pytest.mark.parametrize(
    ("reason", "note"),
    [
        ("agent", "waits for an agent"),
        ("dispatched", "sent to an agent"),
        ("retry", "waits until its next attempt begins"),
        ("previous_step", ""),
        ("concurrency", ""),
    ],
)
def test_waits_of_steps(reason: str, note: str) -> None:
    assert step_note(pipeline_pb2.StepRunDetail(status=PENDING, waiting_reason=reason)) == note


@pytest.mark.parametrize(
    ("number", "most", "text"),
    [(2, 3, "attempt 2 of 3"), (3, 3, "attempt 3 of 3"), (4, 3, "attempt 4"), (2, 0, "attempt 2")],
)
def test_attempts(number: int, most: int, text: str) -> None:
    assert waiting.attempt(number, most) == text


def test_stages_cells_attempts_and_gates_of_a_run() -> None:
    run = pipeline_pb2.PipelineRunDetail(
        run_id="r1", namespace="shop", pipeline_name="ship", status=RUNNING, total_jobs=3, completed_jobs=1
    )
    build = run.job_runs.add(job_name="build", stage="verify", status=SUCCESS, attempt=2, max_attempts=3)
    build.step_runs.add(step_name="make", status=FAILED, exit_code=2, failure_reason="script", attempt=1)
    build.step_runs.add(step_name="make", status=SUCCESS, attempt=2)
    run.job_runs.add(job_name="test (linux, 3.12)", stage="verify", status=RUNNING, depends_on=["build"])
    ship = run.job_runs.add(job_name="ship", stage="release", status=PENDING, waiting_reason="approval")
    ship.step_runs.add(step_name="upload", status=PENDING, waiting_reason="approval")
    run.pending_approvals.append(GATES[0])
    lines = [line.rstrip() for line in text_of(run_report(run, {}, NOW)).splitlines()]
    assert lines == [
        "STAGE    JOB                     STEP              STATUS   DURATION  AGENT  NOTE",
        "verify   build (attempt 2 of 3)                    SUCCESS",
        "                                 make              FAILED                    exit 2",
        "                                 make (attempt 2)  SUCCESS",
        "         test (linux, 3.12)                        RUNNING                   after build",
        (
            "release  ship                                      PENDING                   "
            "waits for an approval: arcentra approval approve 01a"
        ),
        "                                 upload            PENDING",
        "",
        (
            "gate before stage release has 0 of 2 approvals by ada, bob: "
            "arcentra approval approve 01a, or arcentra approval reject 01a"
        ),
        "run r1 of shop/ship: RUNNING, 1/3 jobs done",
    ]


def test_a_run_that_waits_for_agents_names_the_command_that_says_why() -> None:
    run = pipeline_pb2.PipelineRunDetail(run_id="r1", namespace="shop", pipeline_name="ship", status=PENDING)
    run.job_runs.add(job_name="a", status=PENDING).step_runs.add(step_name="x", status=PENDING, waiting_reason="needs")
    assert "explain" not in text_of(run_report(run, {}, NOW))
    run.job_runs.add(job_name="b", status=PENDING).step_runs.add(step_name="x", status=PENDING, waiting_reason="agent")
    assert "why they wait for an agent: arcentra run explain r1" in text_of(run_report(run, {}, NOW))


def test_steps_that_wait_are_explained_but_for_those_behind_another_of_their_job() -> None:
    run = pipeline_pb2.PipelineRunDetail(run_id="r1", status=PENDING)
    job = run.job_runs.add(job_name="build", status=PENDING)
    for number, reason in enumerate(("agent", "previous_step", "", "dispatched", "needs")):
        job.step_runs.add(step_run_id=f"s{number}", step_name=f"x{number}", status=PENDING, waiting_reason=reason)
    replies = [steprun_pb2.ExplainStepRunResponse(summary="no agent is registered", waiting_since=int(NOW) - 72)]
    waits = list(waiting.steps(run))
    assert [line.split() for line in text_of(run_explanation(run, waits, replies, NOW)).splitlines()] == [
        ["STEP", "FOR", "WHY", "STEP", "RUN"],
        ["build/x0", "1m12s", "no", "agent", "is", "registered", "s0"],
        ["and", "1", "more", "that", "wait"],
    ]
    assert text_of(run_explanation(run, [], [], NOW)).strip() == "no step of run r1 waits: it is PENDING"


def test_step_that_waits_is_explained_in_a_sentence_and_a_word() -> None:
    reply = steprun_pb2.ExplainStepRunResponse(step_run_id="s1", summary="all agents are full")
    assert "Reason" not in text_of(explanation(reply, NOW))
    reply.scheduling_reason = "agents_full"
    assert ["Reason", "agents_full"] in [line.split() for line in text_of(explanation(reply, NOW)).splitlines()]
