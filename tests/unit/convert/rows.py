"""Rows as the database returns them, for what turns them into messages."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from arcentra_server.db.runs import JobRow, RunRow
from arcentra_server.db.step_runs import StepRow
from arcentra_server.domain.execution import Waiting
from arcentra_server.domain.instantiate import NewStep
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.domain.states import GateState, RunStatus, StepStatus, TriggerType
from arcentra_server.rpc.convert.dispatch import WireForm

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
PIPELINE, RUN, JOB, STEP, AGENT = (UUID(int=number) for number in range(1, 6))


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def step_row(**changed: object) -> StepRow:
    new = NewStep(
        id=STEP,
        run_id=RUN,
        job_id=JOB,
        pipeline_id=PIPELINE,
        job_name="build",
        name="compile",
        index=0,
        uses="shell",
        action="script",
        args={"script": "make"},
        env={"A": "1"},
        workspace=str(JOB),
        timeout_ms=90_000,
        selector=Selector((Term("os", Operator.IN, ("linux",)), Term("gpu", Operator.EXISTS))),
        own_selector=False,
        continue_on_error=True,
        run_on_agent=True,
    )
    row = StepRow(
        id=STEP,
        pipeline_id=PIPELINE,
        run_id=RUN,
        job_id=JOB,
        job_name="build",
        name="compile",
        step_index=0,
        attempt=1,
        superseded=False,
        status=StepStatus.PENDING,
        dispatch=WireForm().encode(new),
        rendered=None,
        continue_on_error=True,
        agent_id=None,
        agent_labels=None,
        cancel_requested=False,
        exit_code=None,
        error_message="",
        failure_reason=None,
        metrics={},
        created_by="anna",
        created_at=ago(60),
        started_at=None,
        finished_at=None,
        log_size=0,
        added=False,
        paused=False,
        leased=False,
        outputs={},
        secrets={},
        condition="",
        kind="",
        waits_for="",
        delayed=False,
        now=NOW,
    )
    return replace(row, **changed)  # type: ignore[arg-type]


def job_row(*steps: StepRow, **changed: object) -> JobRow:
    row = JobRow(
        id=JOB,
        name="build",
        stage="verify",
        stage_index=0,
        status=RunStatus.PENDING,
        agent_id=None,
        exit_code=0,
        error_message="",
        started_at=None,
        finished_at=None,
        definition_name="build",
        matrix={},
        attempt=1,
        outputs={},
        failure_reason=None,
        allow_failure=False,
        gate=GateState.NONE,
        waits_for=Waiting.NOTHING,
        concurrency="",
        steps=list(steps),
    )
    return replace(row, **changed)  # type: ignore[arg-type]


def run_row(*jobs: JobRow, **changed: object) -> RunRow:
    row = RunRow(
        id=RUN,
        pipeline_id=PIPELINE,
        pipeline_name="site",
        namespace="team",
        spec_version=3,
        status=RunStatus.PENDING,
        trigger_type=TriggerType.MANUAL,
        triggered_by="anna",
        branch="main",
        commit_sha="abcd",
        variables={"V": "1"},
        status_reason="",
        total_jobs=1,
        completed_jobs=0,
        failed_jobs=0,
        running_jobs=0,
        created_at=ago(60),
        started_at=None,
        finished_at=None,
        timeout_ms=None,
        event={},
        now=NOW,
        jobs=list(jobs),
    )
    return replace(row, **changed)  # type: ignore[arg-type]
