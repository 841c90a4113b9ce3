"""`arcentra hook` and `arcentra trigger` as processes against a small real server."""

import json
from pathlib import Path
from typing import Any

import pytest

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from tests.cli.conftest import Cli
from tests.support.fake_hooks import NOON
from tests.support.fake_pipeline_server import FakePipelineServer


def hooks_of(fake: FakePipelineServer) -> list[tuple[str, str, str, int]]:
    return [(hook.namespace, hook.pipeline_id, hook.name, hook.forge) for hook in fake.hooks.hooks.values()]


async def test_a_hook_is_made_and_its_secret_shown_once(cli: Cli, fake: FakePipelineServer) -> None:
    demo = fake.add_pipeline("demo", "team")
    result = await cli.run("hook", "create", "code", "--forge", "github")
    assert result.code == 0, result.err
    [hook_id] = fake.hooks.hooks
    for words in (hook_id, f"/webhooks/{hook_id} ", "made by the server", "application/json", "not shown again"):
        assert words in result.out
    result = await cli.run("hook", "create", "other", "--forge", "gitlab", "--pipeline", "team/demo", "-o", "json")
    assert json.loads(result.out)["secret"] == "made by the server"
    result = await cli.run("hook", "create", "third", "--forge", "generic", "-n", "team")
    assert "X-Arcentra-Signature" in result.out
    assert hooks_of(fake) == [
        ("default", "", "code", admin_pb2.FORGE_GITHUB),
        ("team", demo.pipeline_id, "other", admin_pb2.FORGE_GITLAB),
        ("team", "", "third", admin_pb2.FORGE_GENERIC),
    ]


async def test_a_secret_of_ones_own_is_no_argument(cli: Cli, fake: FakePipelineServer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from a file of mine\n")
    result = await cli.run("hook", "create", "code", "--forge", "gitea", "--secret-file", "secret")
    assert result.code == 0, result.err
    result = await cli.run("hook", "rotate", "code", "--secret-file", "-", stdin="from standard input\n")
    assert "the one before is good for another day" in result.out
    assert list(fake.hooks.secrets.values()) == ["from standard input"]
    assert (await cli.run("hook", "create", "x", "--forge", "gitea", "--secret-file", "nowhere")).code == 2
    assert (await cli.run("hook", "create", "x", "--forge", "sourceforge")).code == 2


async def test_hooks_are_found_by_name_or_id(cli: Cli, fake: FakePipelineServer) -> None:
    assert (await cli.run("hook", "list")).out == "no hooks: make one with `arcentra hook create`\n"
    for namespace in ("default", "team"):
        await cli.run("hook", "create", "code", "--forge", "github", "-n", namespace)
    result = await cli.run("hook", "list")
    assert [line.split()[:4] for line in result.out.splitlines()] == [
        ["NAMESPACE", "NAME", "SENDER", "PIPELINE"],
        ["default", "code", "github", "any"],
        ["team", "code", "github", "any"],
    ]
    first, second = fake.hooks.hooks
    assert (await cli.run("hook", "rotate", "team/code", "-o", "json")).code == 0
    assert fake.hooks.secrets == {first: "made by the server", second: "made anew"}
    assert (await cli.run("hook", "delete", second)).out == f"hook {second} deleted\n"
    assert list(fake.hooks.hooks) == [first]
    result = await cli.run("hook", "delete", "code", "-n", "team")
    assert (result.code, result.err) == (2, "error: no hook 'code' in namespace 'team': see `arcentra hook list`\n")
    result = await cli.run("hook", "delete", second)
    assert (result.code, result.err) == (2, f"error: hook {second!r} not found\n")


async def test_triggers_are_listed(cli: Cli, fake: FakePipelineServer) -> None:
    demo = fake.add_pipeline("demo", "team")
    cli.env["TZ"] = "UTC"
    result = await cli.run("trigger", "list", "team/demo")
    assert result.code == 0, result.err
    assert [" ".join(line.split()) for line in result.out.splitlines()] == [
        "PIPELINE # TYPE WHEN NEXT LAST FIRED LAST RUN",
        "team/demo 0 cron At 02:30 (UTC) 2027-01-15 12:00:00 2027-01-15 12:00:00 run-1",
        "team/demo 1 cron Every hour (UTC) none never",
        "team/demo 2 event push, tag on main, rel/** changing src/** never",
    ]
    request = fake.requests[-1]
    assert (request.pipeline_id, request.namespace) == (demo.pipeline_id, "")
    assert len(json.loads((await cli.run("trigger", "list", "-o", "json")).out)["triggers"]) == 3


async def test_the_ledger_is_listed(cli: Cli, fake: FakePipelineServer) -> None:
    cli.env["TZ"] = "UTC"
    assert (await cli.run("trigger", "events")).out == "no trigger events\n"
    common: dict[str, Any] = {"at": NOON, "namespace": "team", "pipeline_name": "demo"}
    fake.hooks.events = [
        pipeline_pb2.TriggerEvent(
            **common,
            type=pipeline_pb2.TRIGGER_TYPE_EVENT,
            outcome=pipeline_pb2.TRIGGER_OUTCOME_FIRED,
            run_id="run-1",
            summary="push main 1a2b3c4",
        ),
        pipeline_pb2.TriggerEvent(
            **common,
            type=pipeline_pb2.TRIGGER_TYPE_CRON,
            outcome=pipeline_pb2.TRIGGER_OUTCOME_MISSED,
            reason="no server looked",
            tick_at=NOON - 3_600,
        ),
    ]
    result = await cli.run("trigger", "events")
    assert [" ".join(line.split()) for line in result.out.splitlines()] == [
        "AT PIPELINE WHAT OUTCOME WHY RUN",
        "2027-01-15 12:00:00 team/demo push main 1a2b3c4 fired run-1",
        "2027-01-15 12:00:00 team/demo cron due 2027-01-15 11:00:00 missed no server looked",
    ]
    result = await cli.run("trigger", "events", "--outcome", "missed", "-o", "json")
    assert [event["outcome"] for event in json.loads(result.out)["events"]] == ["TRIGGER_OUTCOME_MISSED"]
    result = await cli.run("trigger", "events", "--limit", "1", "--page", "2", "--hook", "some-hook")
    assert "1 of 2 trigger events" in result.out
    assert fake.requests[-1].hook_id == "some-hook"


@pytest.mark.parametrize("words", [("trigger", "events", "--outcome", "purple"), ("hook", "create", "x")])
async def test_usage_errors(cli: Cli, words: tuple[str, ...]) -> None:
    assert (await cli.run(*words)).code == 2
