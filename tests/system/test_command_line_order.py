"""`arcentra` with gates, attempts and concurrency keys: what a user reads is enough to go on."""

from __future__ import annotations

import json
import re
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

import pytest

from tests.agent.processes import Gate
from tests.support.processes import Sandbox, read_line
from tests.system.test_command_line import User
from tests.system.verbs import document

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
async def user(shared: Sandbox) -> User:
    server = await shared.serve()
    await shared.agent(server)
    return User(shared, server.grpc)


def job(name: str, script: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "steps": [{"name": "run", "uses": "shell", "args": {"script": script}}], **more}


def gated(name: str) -> str:
    """Return a pipeline with a gate before its second stage."""
    stages = [
        {"name": "verify", "jobs": [job("test", "echo tested")]},
        {"name": "release", "approval": {"required": True}, "jobs": [job("ship", "echo shipped")]},
    ]
    return json.dumps({"name": name, "stages": stages})


async def start(user: User, pipeline: str) -> tuple[Process, str]:
    watcher = await user.start("pipeline", "trigger", pipeline, "--follow")
    return watcher, (await read_line(watcher, " started")).split()[1]


async def test_who_follows_a_run_to_a_gate_is_told_how_to_decide_it(user: User, tmp_path: Path) -> None:
    await user.apply(tmp_path / "gated.yaml", gated("gated"))
    assert "before stage release: 1 approval" in await user.done("pipeline", "show", "gated")
    watcher, run_id = await start(user, "gated")
    said = await read_line(watcher, "==> gate before stage release PENDING")
    command = said.partition(": ")[2].partition(",")[0].split()
    assert command[:3] == ["arcentra", "approval", "approve"]
    shown = await user.done("run", "show", run_id)
    assert f"waits for an approval: {' '.join(command)}" in shown
    assert run_id in await user.done("approval", "list")
    decided = await user.done(*command[1:], "--comment", "looks good")
    assert decided.endswith(": APPROVED\n")
    outcome = await user.finish(watcher)
    assert outcome.code == 0, outcome
    assert "ship/run | shipped" in outcome.out
    assert "looks good" in await user.done("approval", "show", command[3])
    late = await user.run("approval", "reject", command[3])
    assert (late.code, late.err) == (2, "error: approval already decided\n")


async def test_a_refusal_ends_the_run_as_failed(user: User, tmp_path: Path) -> None:
    await user.apply(tmp_path / "refused.yaml", gated("refused"))
    watcher, run_id = await start(user, "refused")
    await read_line(watcher, "==> gate before stage release PENDING")
    assert (await user.done("approval", "reject", "--run", run_id)).endswith(": REJECTED\n")
    outcome = await user.finish(watcher)
    assert outcome.code == 1, outcome
    assert "the approval was refused" in outcome.out
    none = await user.run("approval", "approve", "--run", run_id)
    assert (none.code, none.err) == (2, f"error: no approval of run {run_id} is pending\n")


async def test_a_run_is_retried_from_where_it_failed(user: User, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    script = f"test -e {marker} && echo there && exit 0\necho missing\nexit 3"
    jobs = [job("first", "echo once"), job("second", script, depends_on=["first"]), job("third", "echo ended")]
    jobs[2]["depends_on"] = ["second"]
    await user.apply(tmp_path / "again.yaml", json.dumps({"name": "again", "jobs": jobs}))
    watcher, run_id = await start(user, "again")
    outcome = await user.finish(watcher)
    assert outcome.code == 1, outcome
    marker.touch()
    retried = await user.run("run", "retry", run_id, "--follow")
    assert retried.code == 0, retried
    assert retried.out.splitlines()[0] == f"run {run_id} goes on, again: second, third"
    assert "second/run#2 | there" in retried.out
    assert "| missing" not in retried.out
    assert "| once" not in retried.out
    [row] = [line for line in retried.out.splitlines() if line.startswith("second (attempt 2)")]
    assert "SUCCESS" in row
    refused = await user.run("run", "retry", run_id)
    assert (refused.code, refused.err.count("\n")) == (2, 1), refused


async def test_an_attempt_by_policy_has_its_number(user: User, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    script = f"test -e {marker} && exit 0\ntouch {marker}\nexit 3"
    rule = {"max_attempts": 3, "delay": "1s"}
    await user.apply(tmp_path / "policy.yaml", document("policy", script, retry=rule))
    watcher, _ = await start(user, "policy")
    await read_line(watcher, "==> job PENDING attempt 2 of 3 begins after a pause")
    outcome = await user.finish(watcher)
    assert outcome.code == 0, outcome
    assert "job (attempt 2 of 3)" in outcome.out


async def test_who_waits_for_a_key_is_told_who_holds_it(user: User, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    await user.apply(tmp_path / "holder.yaml", document("holder", f"read line < {gate.path}", concurrency="prod"))
    await user.apply(tmp_path / "waiter.yaml", document("waiter", "echo mine", concurrency="prod"))
    holder, holding = await start(user, "holder")
    await read_line(holder, "==> job/step-1 RUNNING")
    waiter, waits = await start(user, "waiter")
    words = f"waits for the key prod, held by holder/job of run {holding}"
    await read_line(waiter, f"==> job PENDING {words}")
    assert words in await user.done("run", "show", waits)
    rows = [line.split() for line in (await user.done("concurrency", "list", "prod")).splitlines()[1:]]
    assert [row[2:4] for row in rows] == [["holds", "holder/job"], ["waits", "1"]]
    await gate.open()
    assert (await user.finish(holder)).code == 0
    outcome = await user.finish(waiter)
    assert outcome.code == 0, outcome
    assert await user.done("concurrency", "list") == "no concurrency key is held or waited for\n"


async def test_a_run_says_of_each_step_that_waits_why_it_does(user: User, tmp_path: Path) -> None:
    selector = {"match_labels": {"gpu": "nvidia"}}
    jobs = [job("train", "true", agent_selector=selector), job("report", "true", depends_on=["train"])]
    await user.apply(tmp_path / "waits.yaml", json.dumps({"name": "waits", "jobs": jobs}))
    started = await user.run("pipeline", "trigger", "waits")
    assert "no registered agent can serve this job: nearest is `agent`, which lacks gpu=nvidia" in started.err
    run_id = started.out.split()[1]
    assert f"arcentra run explain {run_id}" in await user.done("run", "show", run_id)
    said = await user.done("run", "explain", run_id)
    for word in ("train/run", "no agent can serve gpu=nvidia", "report/run", "waits for job train"):
        assert word in said
    answers = [json.loads(line) for line in (await user.done("run", "explain", run_id, "-o", "json")).splitlines()]
    assert [one["summary"] for one in answers] == [line.split("  ")[2].strip() for line in _rows(said)]
    explained = await user.done("step", "explain", answers[0]["step_run_id"])
    assert answers[0]["summary"] in explained
    assert "wanted gpu=nvidia, has no label gpu" in explained
    await user.done("run", "stop", run_id)
    assert "waits: it is CANCELLED" in await user.done("run", "explain", run_id)


def _rows(table: str) -> list[str]:
    return [re.sub(r" {2,}", "  ", line) for line in table.splitlines()[1:]]
