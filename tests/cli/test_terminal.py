"""What others wrote steers no terminal: not in tables, not in lines, not in errors, not in JSON or YAML."""

import json
import unicodedata

import pytest
import yaml
from rich.console import RenderableType
from rich.text import Text

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_cli.config import OutputFormat
from arcentra_cli.errors import CliError
from arcentra_cli.follow.screen import prefixed, said
from arcentra_cli.follow.story import Say
from arcentra_cli.output import serialise
from arcentra_cli.render import (
    agents,
    approvals,
    definition,
    explain,
    notifications,
    order,
    secrets,
    tables,
    triggers,
    waiting,
)
from arcentra_cli.render.parts import plain
from arcentra_cli.render.run import run_report
from arcentra_cli.terminal import one_line, visible, without_escapes
from tests.cli.conftest import Cli
from tests.cli.test_render import NOW, text_of
from tests.support.fake_pipeline_server import FakePipelineServer

HOSTILE = "\x1b[2J\x1b]0;pwn\x07a\r\nb\x85c\x9b31md\u202ee\u2066f\u2028g\x7f"


def is_safe(text: str) -> bool:
    """Whether a text holds neither controls but ends of lines, nor what turns the order of letters."""
    turning = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    return not any((unicodedata.category(letter) == "Cc" and letter != "\n") or letter in turning for letter in text)


def hostile_run() -> pipeline_pb2.PipelineRunDetail:
    run = pipeline_pb2.PipelineRunDetail(
        run_id=HOSTILE,
        namespace=HOSTILE,
        pipeline_name=HOSTILE,
        branch=HOSTILE,
        triggered_by=HOSTILE,
        status_reason=HOSTILE,
        status=pipeline_pb2.PIPELINE_STATUS_SUCCESS,
    )
    job = run.job_runs.add(
        stage=HOSTILE, job_name=HOSTILE, error_message=HOSTILE, status=pipeline_pb2.PIPELINE_STATUS_FAILED
    )
    job.depends_on.append(HOSTILE)
    job.outputs[HOSTILE] = HOSTILE
    job.step_runs.add(step_name=HOSTILE, agent_id=HOSTILE, waiting_reason=HOSTILE)
    run.pending_approvals.add(stage=HOSTILE, approvers=[HOSTILE], approval_id=HOSTILE)
    return run


def hostile_explanation() -> steprun_pb2.ExplainStepRunResponse:
    reply = steprun_pb2.ExplainStepRunResponse(summary=HOSTILE, conditions=[HOSTILE], scheduling_reason=HOSTILE)
    for _ in range(2):
        reply.blockers.add(kind=HOSTILE, detail=HOSTILE)
    reply.agents.add(name=HOSTILE).obstacles.add(detail=HOSTILE)
    return reply


def shown_tables() -> list[RenderableType]:
    text, pipeline = HOSTILE, pipeline_pb2.PipelineDetail(name=HOSTILE, namespace=HOSTILE, description=HOSTILE)
    pipeline.variables[text] = text
    job = pipeline.jobs.add(name=text, when=text, concurrency=text)
    job.steps.add(name=text)
    gate = pipeline_pb2.ApprovalDetail(stage=text, pipeline_name=text, triggered_by=text, commit_sha=text)
    gate.votes.add(voter=text, comment=text)
    event = pipeline_pb2.TriggerEvent(summary=text, reason=text, pipeline_name=text)
    deployment = pipeline_pb2.DeploymentDetail(target=text, triggered_by=text)
    key = pipeline_pb2.ConcurrencyKey(namespace=text, key=text)
    key.holders.add(job_name=text, pipeline_name=text)
    notice = pipeline_pb2.NotificationDetail(job_name=text, state=text)
    notice.attempts.add(error=text)
    agent = admin_pb2.AgentDetail(name=text, version=text)
    step = steprun_pb2.StepRunDetail(step_name=text, error_message=text, failure_reason=text)
    run = hostile_run()
    return [
        tables.runs(pipeline_pb2.ListPipelineRunsResponse(runs=[run]), NOW),
        tables.pipelines(pipeline_pb2.ListPipelinesResponse(pipelines=[pipeline])),
        agents.agents(admin_pb2.ListAgentsResponse(agents=[agent]), NOW),
        agents.agent(agent, NOW),
        explain.explanation(hostile_explanation(), NOW),
        explain.run_explanation(run, list(waiting.steps(run)), [hostile_explanation()], NOW),
        tables.step_run(step, NOW),
        tables.whoami(admin_pb2.WhoAmIResponse(name=text), text, text),
        run_report(run, {}, NOW),
        definition.pipeline(pipeline),
        approvals.approvals(pipeline_pb2.ListApprovalsResponse(approvals=[gate])),
        approvals.approval(gate),
        triggers.events(pipeline_pb2.ListTriggerEventsResponse(events=[event])),
        triggers.hooks(admin_pb2.ListHooksResponse(hooks=[admin_pb2.HookDetail(name=text, created_by=text)])),
        order.deployments(pipeline_pb2.ListDeploymentsResponse(deployments=[deployment])),
        order.concurrency(pipeline_pb2.ListConcurrencyResponse(keys=[key]), NOW),
        notifications.notifications(pipeline_pb2.ListNotificationsResponse(notifications=[notice])),
        secrets.secrets(admin_pb2.ListSecretsResponse(secrets=[admin_pb2.SecretDetail(name=text, updated_by=text)])),
    ]


@pytest.mark.parametrize("number", range(18))
def test_no_table_hands_on_what_steers_a_terminal(number: int) -> None:
    every = shown_tables()
    assert len(every) == 18
    shown = text_of(every[number], 4000)
    assert "pwn" in shown or "\ufffd" in shown
    assert is_safe(shown), repr(shown)


def test_a_cell_stays_one_line() -> None:
    event = pipeline_pb2.TriggerEvent(reason="repository a\nb", summary="push")
    lines = text_of(triggers.events(pipeline_pb2.ListTriggerEventsResponse(events=[event], total=1))).splitlines()
    assert len(lines) == 2
    assert "repository a b" in lines[1]


def test_what_is_not_shown_has_a_replacement() -> None:
    assert visible("a\x1b[2J\x07\x9b\u202e\tb") == "a\ufffd[2J\ufffd\ufffd\ufffd b"
    assert len(visible(HOSTILE)) == len(HOSTILE)
    assert visible("日本 é עברית") == "日本 é עברית"
    assert one_line("a\x1b[31m\n  b\u202e\x07") == "a b\ufffd\ufffd"


def test_lines_of_a_log_cannot_steer_either() -> None:
    assert without_escapes("\x9b2Ja\u202eb\u2066\x1b[1mc\x07", keep_styles=False) == "\ufffd2Ja\ufffdb\ufffdc"
    assert without_escapes("\x85\x1b[1mc\x9f", keep_styles=True) == "\ufffd\x1b[1mc\ufffd"
    assert is_safe(prefixed(HOSTILE, [HOSTILE]))
    assert is_safe(said(Say(HOSTILE, "RUNNING", HOSTILE)))
    assert "\n" not in said(Say(HOSTILE, "RUNNING", HOSTILE))


def test_errors_are_lines() -> None:
    error = str(CliError(HOSTILE, details=(HOSTILE, "two")))
    assert is_safe(error)
    assert len(error.splitlines()) == 3


def test_documents_say_the_same_with_escapes() -> None:
    run = hostile_run()
    for output, load in ((OutputFormat.JSON, json.loads), (OutputFormat.YAML, yaml.safe_load)):
        text = serialise(output, run)
        assert is_safe(text), output
        assert load(text)["job_runs"][0]["job_name"] == load(text)["branch"] == HOSTILE
    assert "é" in serialise(OutputFormat.YAML, pipeline_pb2.PipelineRunDetail(branch="é"))


def test_styles_stay_where_they_are() -> None:
    shown = plain(Text.assemble("a\u202eb ", ("red", "red"), "\n"))
    assert isinstance(shown, Text)
    assert shown.plain == "a\ufffdb red "
    assert [(span.start, span.end, span.style) for span in shown.spans] == [(4, 7, "red")]


async def test_a_list_of_runs_shows_who_started_them_and_obeys_nobody(cli: Cli, fake: FakePipelineServer) -> None:
    run = fake.add_run()
    run.detail.triggered_by = "\x1b[2J\x1b]0;pwn\x07"
    run.detail.branch = "ma\u202ein\x9b"
    listed = await cli.run("run", "list")
    assert is_safe(listed.out)
    assert "\ufffd[2J\ufffd]0;pwn\ufffd" in listed.out
    assert "ma\ufffdin\ufffd" in listed.out
