"""`arcentra agent` as a process against a small real server."""

import json

from arcentra_api.agent.v1 import agent_pb2
from tests.cli.conftest import Cli
from tests.support.fake_agents import NOON
from tests.support.fake_pipeline_server import FakePipelineServer

ID = "0000000a-0000-7000-8000-00000000a6e7"


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


async def test_agents_are_listed_with_what_is_wanted_of_them(cli: Cli, fake: FakePipelineServer) -> None:
    fake.agents.add(
        "lost",
        status=agent_pb2.AGENT_STATUS_OFFLINE,
        draining=True,
        disabled=True,
        note="new\x1b[31m disk",
        metrics={"cpu_usage": "12.4", "disk_usage": "99", "memory_usage": "odd", "other": "1"},
    )
    fake.agents.add("new", status=agent_pb2.AGENT_STATUS_PENDING_APPROVAL, pending_approval=True)
    result = await cli.run("agent", "list")
    assert result.code == 0, result.err
    header, first, lost, new = lines(result.out)
    assert header == "NAME STATUS SLOTS LOAD LABELS LAST CONTACT PLATFORM VERSION NOTE ID"
    assert first == "agent-1 IDLE 0/4 arch=arm64, os=linux never agent-1-id"
    assert "lost OFFLINE 0/0 cpu 12%, disk 99% never disabled, drained: new disk" in lost
    assert "new PENDING_APPROVAL" in new
    assert "waits for approval" in new
    fake.agents.agents.clear()
    assert (await cli.run("agent", "list")).out == "no agents: join one with `arcentra-agent run`\n"


async def test_an_agent_is_shown_with_the_origin_of_its_labels(cli: Cli, fake: FakePipelineServer) -> None:
    cli.env["TZ"] = "UTC"
    fake.agents.add(
        "one",
        ID,
        status=agent_pb2.AGENT_STATUS_OFFLINE,
        last_heartbeat=NOON,
        disabled=True,
        note="broken",
        labels={"pool": "b", "os": "linux"},
        claimed_labels={"pool": "a", "os": "linux"},
        server_labels={"pool": "b"},
        max_concurrent_step_runs=3,
        running_step_runs_count=1,
        os="linux",
        arch="arm64",
        ip="192.0.2.1",
        version="1.2",
    )
    for named in ("one", ID):
        result = await cli.run("agent", "show", named)
        assert result.code == 0, result.err
        shown = lines(result.out)
        since = shown.pop(8)
        assert shown == [
            "Agent one",
            f"Id {ID}",
            "Status OFFLINE",
            "Wanted disabled: broken",
            "Note broken",
            "Slots 1 of 3 in use",
            "Labels os=linux (agent), pool=b (server)",
            "Overridden pool=a",
            "Platform linux/arm64",
            "Address 192.0.2.1",
            "Version 1.2",
        ]
        assert since.startswith("Offline since 2027-01-15 12:00:00 (")
    assert json.loads((await cli.run("agent", "show", "one", "-o", "json")).out)["agent"]["note"] == "broken"


async def test_an_agent_is_drained_disabled_and_let_work_again(cli: Cli, fake: FakePipelineServer) -> None:
    agent = fake.agents.add("one", ID, running_step_runs_count=2)
    for words, out in (
        (("drain", "one", "--reason", "upgrade"), "agent one drains (DRAINING, runs 2 steps)\n"),
        (("resume", "one"), "agent one resumed (IDLE, runs 2 steps)\n"),
        (("disable", ID, "--reason", "broken"), "agent one disabled (DISABLED, runs 2 steps)\n"),
        (("enable", "one"), "agent one enabled (IDLE, runs 2 steps)\n"),
        (("approve", "one"), "agent one approved (IDLE, runs 2 steps)\n"),
    ):
        result = await cli.run("agent", *words)
        assert (result.code, result.out) == (0, out), result.err
        if "--reason" in words:
            assert agent.note == words[-1]
    assert fake.calls["ApproveAgent"] == 1


async def test_labels_are_given_taken_away_and_replaced(cli: Cli, fake: FakePipelineServer) -> None:
    agent = fake.agents.add("one", ID, server_labels={"pool": "a", "old": "1"})
    result = await cli.run("agent", "label", "one", "pool=b", "!gpu=nvidia", "old-")
    assert result.code == 0, result.err
    assert "!gpu=nvidia (server), pool=b (server)" in result.out
    assert dict(agent.server_labels) == {"pool": "b", "!gpu": "nvidia"}
    await cli.run("agent", "label", "one", "zone=c", "--replace")
    assert dict(agent.server_labels) == {"zone": "c"}
    await cli.run("agent", "label", "one", "--replace")
    assert dict(agent.server_labels) == {}
    for wrong in (("pool",), ("=b",), ("pool=",), ("-",), ("pool-", "--replace"), ()):
        result = await cli.run("agent", "label", "one", *wrong)
        assert result.code == 2
        assert "write KEY=VALUE" in result.err
    assert fake.calls["SetAgentLabels"] == 3


async def test_an_agent_is_removed(cli: Cli, fake: FakePipelineServer) -> None:
    fake.agents.add("one", ID)
    result = await cli.run("agent", "remove", "one", "--reason", "sold")
    assert (result.code, result.out) == (0, "agent one removed\n"), result.err
    assert fake.agents.removed == {ID: "sold"}


async def test_a_name_that_is_none_or_not_the_only_one(cli: Cli, fake: FakePipelineServer) -> None:
    result = await cli.run("agent", "drain", "nobody")
    assert (result.code, result.err) == (2, "error: no agent 'nobody': see `arcentra agent list`\n")
    twins = [fake.agents.add("twin").agent_id for _ in range(2)]
    result = await cli.run("agent", "show", "twin")
    assert result.code == 2
    assert lines(result.err) == ["error: 2 agents are named 'twin': name one by its id", *twins]
    result = await cli.run("agent", "show", ID)
    assert (result.code, result.err) == (2, f"error: agent {ID!r} not found\n")
