"""A pipeline as `pipeline show` has it."""

from typing import Any

import pytest
from google.protobuf import json_format

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.render.definition import gate, pipeline, trigger
from tests.cli.test_render import text_of

DETAIL: dict[str, Any] = {
    "namespace": "shop",
    "name": "ship",
    "enabled": True,
    "timeout": "2h",
    "triggers": [
        {"type": "TRIGGER_TYPE_CRON", "options": {"schedule": "30 2 * * *", "time_zone": "Europe/Berlin"}},
        {"type": "TRIGGER_TYPE_EVENT", "options": {"events": ["push"], "branches": ["main"]}},
    ],
    "stages": [
        {
            "name": "verify",
            "jobs": [
                {
                    "name": "test",
                    "source": {"repo": "r"},
                    "steps": [{"name": "unit"}, {"name": "lint"}],
                    "timeout": "30m",
                    "matrix": {
                        "axes": [{"name": "os", "values": ["linux", "mac"]}, {"name": "py", "values": [3.11, 3, True]}],
                        "include": [{"os": "bsd"}],
                        "exclude": [{"os": "mac"}, {"py": 3}],
                    },
                    "retry": {"max_attempts": 3, "delay": "30s", "on": ["timeout", "agent_lost"]},
                    "allow_failure": True,
                    "priority": 5,
                },
                {"name": "pack", "depends_on": ["test"], "approval": {"required": True}, "when": "branch == 'main'"},
            ],
        },
        {
            "name": "release",
            "approval": {"required": True, "args": {"needed": 2, "approvers": ["ada", "bob"]}},
            "jobs": [
                {
                    "name": "ship",
                    "concurrency": "prod",
                    "concurrency_limit": 2,
                    "cancel_in_progress": True,
                    "target": {"type": "k8s"},
                    "agent_selector": {"match_labels": {"net": "prod"}},
                },
                {"name": "ask", "approval": {"required": False}},
            ],
        },
    ],
}


def test_a_definition_in_short() -> None:
    detail = json_format.ParseDict(DETAIL, pipeline_pb2.PipelineDetail())
    lines = [line.rstrip() for line in text_of(pipeline(detail), width=400).splitlines()]
    head = lines[lines.index("Timeout   2h") : lines.index("")]
    assert head == [
        "Timeout   2h",
        "Triggers  cron 30 2 * * * (Europe/Berlin)",
        "          event push on main",
        "Gates     before stage release: 2 approvals by ada, bob",
        "          after job pack: 1 approval",
    ]
    _, test, pack, ship, ask = [[cell.strip() for cell in line.split("  ") if cell] for line in lines[-5:]]
    rules = (
        "matrix os (linux, mac) x py (3.11, 3, true), 1 included, 2 excluded; "
        "3 attempts with a pause of 30s on timeout, agent_lost; failure tolerated; priority 5"
    )
    assert test == ["verify", "test", "source, unit, lint", "30m", rules]
    assert pack == ["verify", "pack", "test", "when branch == 'main'"]
    rules = "key prod, 2 at a time, cancels older ones; deploys to k8s"
    assert ship == ["release", "ship", "target", "net=prod", rules]
    assert ask == ["release", "ask"]


def test_jobs_without_stages() -> None:
    detail = pipeline_pb2.PipelineDetail(jobs=[pipeline_pb2.Job(name="only", depends_on=["a", "b"])])
    assert text_of(pipeline(detail)).splitlines()[-1].split() == ["only", "a,", "b"]


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        (pipeline_pb2.TRIGGER_TYPE_CRON, {"schedule": "@daily"}, "cron @daily (UTC)"),
        (
            pipeline_pb2.TRIGGER_TYPE_CRON,
            {"schedule": "0 5 * * 1-5", "branch": "dev", "catch_up": "last"},
            "cron 0 5 * * 1-5 (UTC), branch dev, catches up the last",
        ),
        (pipeline_pb2.TRIGGER_TYPE_EVENT, {"events": ["tag"], "tags": ["v*"]}, "event tag tagged v*"),
        (pipeline_pb2.TRIGGER_TYPE_MANUAL, {}, "manual"),
    ],
)
def test_triggers(kind: pipeline_pb2.TriggerType.ValueType, options: dict[str, Any], text: str) -> None:
    one = pipeline_pb2.Trigger(type=kind)
    one.options.update(options)
    assert trigger(one) == text


def test_the_rules_of_a_gate() -> None:
    approval = pipeline_pb2.Approval(required=True)
    approval.args.update({"needed": 1, "approvers": ["ada"], "separation": True, "timeout": "24h"})
    assert gate(approval) == "1 approval by ada, not by who triggered the run, within 24h"
