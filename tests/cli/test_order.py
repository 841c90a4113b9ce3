"""Gates, retries, concurrency keys and deployments: the commands as processes against a real server."""

import json
from typing import Any

import pytest
import yaml

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from tests.cli.conftest import Cli, read_until
from tests.support.fake_order import COMMIT, DIGEST
from tests.support.fake_pipeline_server import FakePipelineServer

DecideRequest = pipeline_pb2.DecideApprovalRequest


def decisions(fake: FakePipelineServer) -> list[DecideRequest]:
    return [request for request in fake.requests if isinstance(request, DecideRequest)]


async def test_gates_are_listed_by_run_pipeline_and_state(cli: Cli, fake: FakePipelineServer) -> None:
    one, other = fake.add_run("demo"), fake.add_run("other")
    fake.order.add_gate(one.detail, approvers=["ada", "bob"], needed=2)
    fake.order.add_gate(one.detail, state=pipeline_pb2.APPROVAL_STATE_REJECTED)
    fake.order.add_gate(other.detail, job_name="build")

    async def ids(*words: str) -> list[str]:
        reply = json.loads((await cli.run("approval", "list", "-o", "json", *words)).out)
        return [gate["approval_id"][:8] for gate in reply["approvals"]]

    assert await ids() == ["00000002", "00000000"]
    assert await ids("--state", "all") == ["00000002", "00000001", "00000000"]
    assert await ids("--state", "rejected") == ["00000001"]
    assert await ids("--run", one.run_id, "--state", "all", "--page", "2", "--limit", "1") == ["00000000"]
    shown = await cli.run("approval", "list", "--pipeline", "demo")
    [row] = shown.out.splitlines()[1:]
    assert row.split("  ")[0].startswith("00000000-")
    for word in ("PENDING", "gate before stage release", "default/demo", "0 of 2 approvals", "ada, bob", COMMIT[:12]):
        assert word in row
    assert (await cli.run("approval", "list", "--state", "purple")).code == 2


async def test_a_gate_is_shown_with_what_it_is_bound_to_and_its_votes(cli: Cli, fake: FakePipelineServer) -> None:
    gate = fake.order.add_gate(fake.add_run().detail, state=pipeline_pb2.APPROVAL_STATE_REJECTED)
    gate.votes.add(voter="bob", decision=pipeline_pb2.APPROVAL_DECISION_REJECT, comment="wrong\nbranch")
    shown = await cli.run("approval", "show", "00000000")
    assert shown.code == 0, shown.err
    for word in (gate.approval_id, "REJECTED", COMMIT, DIGEST, "everybody with the role"):
        assert word in shown.out
    assert shown.out.splitlines()[-1].split() == ["bob", "rejected", "wrong", "branch"]
    assert yaml.safe_load((await cli.run("approval", "show", "00000000", "-o", "yaml")).out)["spec_digest"] == DIGEST


async def test_a_vote_is_for_the_definition_and_commit_that_were_looked_at(cli: Cli, fake: FakePipelineServer) -> None:
    run = fake.add_run()
    first, second = fake.order.add_gate(run.detail), fake.order.add_gate(run.detail, needed=2)
    result = await cli.run("approval", "approve", first.approval_id, "--comment", "tested")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        f"gate before stage release of run {run.run_id} (default/demo) at commit {COMMIT[:12]}: APPROVED\n"
    )
    assert decisions(fake) == [
        DecideRequest(
            approval_id=first.approval_id,
            decision=pipeline_pb2.APPROVAL_DECISION_APPROVE,
            comment="tested",
            spec_digest=DIGEST,
            commit_sha=COMMIT,
        )
    ]
    result = await cli.run("approval", "approve", "--run", run.run_id)  # the only one that is pending by now
    assert result.out.endswith(": PENDING, has 1 of 2 approvals\n"), result
    result = await cli.run("approval", "reject", second.approval_id[:8].upper(), "-o", "json")
    assert json.loads(result.out)["approval"]["state"] == "APPROVAL_STATE_REJECTED"
    assert decisions(fake)[-1].decision == pipeline_pb2.APPROVAL_DECISION_REJECT


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["0000000"], "2 approvals have ids that begin with '0000000': name one"),
        (["ff"], "no approval has an id that begins with 'ff': see `arcentra approval list --state all`"),
        (["--run", "run-1"], "2 approvals of run run-1 are pending: name one"),
        (["--run", "run-2"], "no approval of run run-2 is pending"),
        ([""], "the id of the gate is empty"),
        ([], "which gate? name its id, or with --run the run that waits at it: see `arcentra approval list`"),
    ],
)
async def test_a_gate_that_is_not_clear_is_not_decided(
    cli: Cli, fake: FakePipelineServer, words: list[str], error: str
) -> None:
    run = fake.add_run()
    for _ in range(2):
        fake.order.add_gate(run.detail)
    result = await cli.run("approval", "approve", *words)
    assert (result.code, result.err.splitlines()[0]) == (2, f"error: {error}")
    assert not decisions(fake)


async def test_a_gate_beyond_the_first_page_is_found(cli: Cli, fake: FakePipelineServer) -> None:
    run = fake.add_run()
    for _ in range(101):
        fake.order.add_gate(run.detail)
    result = await cli.run("approval", "approve", "00000000")
    assert result.code == 0, result.err
    assert decisions(fake)[0].approval_id.startswith("00000000")


async def test_refusals_of_a_vote_are_one_line(cli: Cli, fake: FakePipelineServer) -> None:
    run = fake.add_run()
    fake.order.add_gate(run.detail, approvers=["bob"])
    fake.order.add_gate(run.detail, state=pipeline_pb2.APPROVAL_STATE_EXPIRED)
    refused = await cli.run("approval", "approve", "00000000")
    assert (refused.code, refused.err) == (
        2,
        "error: not allowed: not an approver: this gate names who may decide it\n",
    )
    decided = await cli.run("approval", "reject", "00000001")
    assert (decided.code, decided.err) == (2, "error: approval already decided\n")


async def test_keys_with_holders_and_waiters_in_order(cli: Cli, fake: FakePipelineServer) -> None:
    key = pipeline_pb2.ConcurrencyKey(namespace="shop", key="prod")
    key.holders.add(job_name="ship", pipeline_name="demo", run_id="r1", since=1_700_000_000, limit=1)
    for run in ("r2", "r3"):
        key.waiters.add(job_name="ship", pipeline_name="demo", run_id=run, since=1_700_000_060, limit=1)
    fake.order.keys = [key, pipeline_pb2.ConcurrencyKey(namespace="other", key="prod")]
    listed = await cli.run("concurrency", "list", "prod", "-n", "shop")
    assert listed.code == 0, listed.err
    rows = [line.split() for line in listed.out.splitlines()[1:]]
    assert [row[:5] for row in rows] == [
        ["shop", "prod", "holds", "demo/ship", "r1"],
        ["shop", "prod", "waits", "1", "demo/ship"],
        ["shop", "prod", "waits", "2", "demo/ship"],
    ]
    assert [row[5] for row in rows[1:]] == ["r2", "r3"]
    assert len(json.loads((await cli.run("concurrency", "list", "-o", "json")).out)["keys"]) == 2
    assert (await cli.run("concurrency", "list", "x")).out == "no concurrency key is held or waited for\n"


async def test_deployments_by_pipeline_and_target(cli: Cli, fake: FakePipelineServer) -> None:
    detail = fake.add_pipeline("demo")
    fields: dict[str, Any] = {"namespace": "default", "pipeline_name": "demo", "run_id": "r1", "commit_sha": COMMIT}
    for target, pipeline_id, status in (
        ("prod", detail.pipeline_id, pipeline_pb2.PIPELINE_STATUS_SUCCESS),
        ("test", detail.pipeline_id, pipeline_pb2.PIPELINE_STATUS_FAILED),
        ("prod", "another", pipeline_pb2.PIPELINE_STATUS_SUCCESS),
    ):
        one = pipeline_pb2.DeploymentDetail(target=target, type="k8s", status=status, pipeline_id=pipeline_id, **fields)
        fake.order.deployments.append(one)
    listed = await cli.run("deployment", "list", "--pipeline", "demo", "--target", "prod")
    assert listed.code == 0, listed.err
    [row] = listed.out.splitlines()[1:]
    assert row.split()[:6] == ["prod", "k8s", "SUCCESS", COMMIT[:12], "default/demo", "r1"]
    assert "1 of 3 deployments" in (await cli.run("deployment", "list", "--limit", "1")).out


async def test_what_of_a_run_is_retried(cli: Cli, fake: FakePipelineServer) -> None:
    run = fake.add_run()
    for name in ("build", "test"):
        await run.job(name, pipeline_pb2.PIPELINE_STATUS_FAILED)
    fake.order.retried = {
        pipeline_pb2.RETRY_SCOPE_ALL: [f"{run.run_id}-build", f"{run.run_id}-test"],
        pipeline_pb2.RETRY_SCOPE_FAILED: [f"{run.run_id}-test"],
    }
    result = await cli.run("run", "retry", run.run_id)
    assert (result.code, result.out) == (
        0,
        f"run {run.run_id} goes on, again: test: arcentra run watch {run.run_id}\n",
    ), result.err
    everything = await cli.run("run", "retry", run.run_id, "--all", "-o", "json")
    assert len(json.loads(everything.out)["job_run_ids"]) == 2
    assert (await cli.run("run", "retry", run.run_id, "--all", "--failed")).code == 2
    fake.order.retried = {}
    refused = await cli.run("run", "retry", run.run_id)
    assert (refused.code, refused.err) == (2, "error: the run has not ended: stop it, or retry a job of it\n")


async def test_a_retried_run_is_followed_to_its_end(cli: Cli, fake: FakePipelineServer) -> None:
    run = fake.add_run()
    old = await run.step("build/compile", steprun_pb2.STEP_RUN_STATUS_FAILED, exit_code=2)
    await run.log(old, b"old\n", complete=True)
    await run.job("build", pipeline_pb2.PIPELINE_STATUS_FAILED)
    run.job_run("build").max_attempts = 3
    await run.run(pipeline_pb2.PIPELINE_STATUS_RUNNING)
    fake.order.retried = {pipeline_pb2.RETRY_SCOPE_FAILED: [f"{run.run_id}-build"]}
    process = await cli.start("run", "retry", run.run_id, "--failed", "--follow")
    seen = await read_until(process, "==> build FAILED")
    new = await run.step("build/compile", steprun_pb2.STEP_RUN_STATUS_RUNNING, attempt=2)
    await run.log(new, b"new\n", complete=True)
    seen += await read_until(process, "build/compile#2 | new")
    await run.job("build", pipeline_pb2.PIPELINE_STATUS_RUNNING)
    seen += await read_until(process, "==> build RUNNING attempt 2")
    await run.step("build/compile", steprun_pb2.STEP_RUN_STATUS_SUCCESS, attempt=2)
    await run.job("build", pipeline_pb2.PIPELINE_STATUS_SUCCESS)
    await run.run(pipeline_pb2.PIPELINE_STATUS_PARTIAL)
    result = await cli.finish(process)
    assert result.code == 4, result.err
    assert "| old" not in seen + result.out
    assert "==> build SUCCESS" in result.out


async def test_a_followed_run_says_what_it_waits_for_and_how_to_decide(cli: Cli, fake: FakePipelineServer) -> None:
    fake.warnings = ["no agent has the label gpu=yes"]
    fake.add_pipeline("demo")
    process = await cli.start("pipeline", "trigger", "demo", "--follow")
    await fake.triggered.wait()
    run = fake.runs["run-1"]
    pending = pipeline_pb2.PIPELINE_STATUS_PENDING
    await run.run(pipeline_pb2.PIPELINE_STATUS_RUNNING, total=2)
    await run.job("test", pending, waiting="needs", detail="waits for build, lint")
    seen = await read_until(process, "==> test PENDING waits for build, lint\n")
    gate = fake.order.add_gate(run.detail)
    await run.job("ship", pending, waiting="approval", detail="waits for an approval")
    await run.job("ship", pending, waiting="approval", detail="waits for an approval")
    seen += await read_until(process, f"arcentra approval approve {gate.approval_id}, or")
    await run.job("test", pending, waiting="concurrency", detail="waits for the key prod, held by a/b of run r0")
    seen += await read_until(process, "==> test PENDING waits for the key prod, held by a/b of run r0\n")
    for name in ("test", "ship"):
        await run.job(name, pipeline_pb2.PIPELINE_STATUS_SUCCESS)
    await run.run(pipeline_pb2.PIPELINE_STATUS_SUCCESS)
    result = await cli.finish(process)
    assert result.code == 0, result.err
    assert result.err == "warning: no agent has the label gpu=yes\n"
    states = [line for line in (seen + result.out).splitlines() if line.startswith("==>")]
    assert states == [
        "==> run RUNNING",
        "==> test PENDING waits for build, lint",
        (
            "==> gate before stage release PENDING has 0 of 1 approval: "
            f"arcentra approval approve {gate.approval_id}, or arcentra approval reject {gate.approval_id}"
        ),
        "==> test PENDING waits for the key prod, held by a/b of run r0",
        "==> test SUCCESS",
        "==> ship SUCCESS",
    ]


async def test_warnings_of_a_trigger_are_no_part_of_its_answer(cli: Cli, fake: FakePipelineServer) -> None:
    fake.warnings = ["no agent has\nthe label gpu"]
    fake.add_pipeline("demo")
    result = await cli.run("pipeline", "trigger", "demo")
    assert result.err == "warning: no agent has the label gpu\n"
    assert result.out == "run run-1 started: arcentra run watch run-1\n"
    as_json = await cli.run("pipeline", "trigger", "demo", "-o", "json")
    assert (json.loads(as_json.out)["warnings"], as_json.err) == (["no agent has\nthe label gpu"], "")
