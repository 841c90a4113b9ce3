"""The commands as processes against a real server."""

import json
import stat
from pathlib import Path

import pytest
import yaml

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from tests.cli.conftest import Cli
from tests.support.fake_pipeline_server import TOKEN, FakePipelineServer


async def test_help_is_quick_because_it_does_not_load_grpc(cli: Cli) -> None:
    cli.env["PYTHONPROFILEIMPORTTIME"] = "1"
    result = await cli.run("--help")
    assert result.code == 0
    assert "Exit codes: 0" in result.out
    loaded = {line.rpartition("|")[2].strip() for line in result.err.splitlines()}
    assert "typer" in loaded
    assert not loaded & {"grpc", "google.protobuf", "asyncpg", "arcentra_api.pipeline.v1.pipeline_pb2"}


async def test_usage_errors_exit_with_2(cli: Cli) -> None:
    assert (await cli.run("pipeline", "nonsense")).code == 2
    assert (await cli.run("run", "list", "--status", "purple")).code == 2
    result = await cli.run("pipeline", "trigger", "demo", "--var", "novalue")
    assert result.code == 2
    assert "KEY=VALUE" in result.err


async def test_login_keeps_the_token_for_this_server(cli: Cli, fake: FakePipelineServer) -> None:
    del cli.env["ARCENTRA_TOKEN"], cli.env["ARCENTRA_SERVER"]
    result = await cli.run("login", "--server", fake.address, stdin=f"{TOKEN}\n")
    assert result.code == 0, result.err
    assert f"logged in to {fake.address} as ada (admin)" in result.out
    assert TOKEN not in result.out + result.err
    path = cli.home / ".config" / "arcentra" / "config.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    result = await cli.run("whoami")
    assert result.code == 0, result.err
    assert "ada" in result.out
    assert fake.address in result.out


async def test_a_refused_token_is_not_kept(cli: Cli) -> None:
    result = await cli.run("login", "--token", "wrong")
    assert result.code == 6
    assert "does not accept the token" in result.err
    assert "arcentra login" in result.err
    assert not (cli.home / ".config").exists()


async def test_the_admin_token_of_this_host_is_found(cli: Cli) -> None:
    del cli.env["ARCENTRA_TOKEN"]
    data = cli.home / "data"
    data.mkdir()
    (data / "admin.token").write_text(f"{TOKEN}\n")
    cli.env["ARCENTRA_DATA_DIR"] = str(data)
    result = await cli.run("whoami")
    assert result.code == 0, result.err
    assert str(data / "admin.token") in result.out


async def test_an_unreachable_server_is_one_clear_line(cli: Cli, fake: FakePipelineServer) -> None:
    await fake.stop()
    result = await cli.run("pipeline", "list")
    assert result.code == 6
    assert result.err == (f"error: cannot reach the server at {fake.address}: is `arcentra-server serve` running?\n")


async def test_reads_are_repeated_over_a_short_outage(cli: Cli, fake: FakePipelineServer) -> None:
    fake.away_for["ListPipelines"] = 2
    result = await cli.run("pipeline", "list")
    assert (result.code, result.out) == (0, "no pipelines\n"), result.err
    assert fake.calls["ListPipelines"] == 3


async def test_apply_tells_what_it_did_and_every_fault(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("demo")
    (tmp_path / "bad.yaml").write_text("faulty")
    result = await cli.run("pipeline", "apply", "-f", "bad.yaml", "-f", "good.yaml")
    assert result.code == 2
    assert result.out == "pipeline default/demo created (version 1)\n"
    assert result.err == (
        "error: bad.yaml: the document has faults\n"
        "  stages[0].jobs[1].name: bad name (line 7, column 9)\n"
        "  triggers: no cron\n"
    )
    result = await cli.run("pipeline", "apply", "-f", "-", stdin="demo")
    assert (result.code, result.out) == (0, "pipeline default/demo unchanged (version 1)\n")
    result = await cli.run("pipeline", "apply", "-f", "none.yaml")
    assert (result.code, result.err) == (2, "error: cannot read none.yaml: No such file or directory\n")


async def test_global_options_before_and_after_the_command(cli: Cli, fake: FakePipelineServer) -> None:
    fake.add_pipeline("one", "team")
    fake.add_pipeline("two")
    before = await cli.run("-o", "json", "-n", "team", "pipeline", "list")
    after = await cli.run("pipeline", "list", "-o", "json", "-n", "team")
    assert before.out == after.out
    reply = json.loads(after.out)
    assert [p["name"] for p in reply["pipelines"]] == ["one"]
    assert yaml.safe_load((await cli.run("pipeline", "list", "-o", "yaml")).out)["total"] == 2
    assert (await cli.run("pipeline", "list", "-o", "xml")).code == 2


async def test_pipelines_by_name_and_by_id(cli: Cli, fake: FakePipelineServer) -> None:
    detail = fake.add_pipeline("demo", "team")
    for words in (["demo", "-n", "team"], ["team/demo"], [detail.pipeline_id]):
        result = await cli.run("pipeline", "show", *words)
        assert result.code == 0, result.err
        assert "team/demo" in result.out
    result = await cli.run("pipeline", "show", "demo")
    assert (result.code, result.err) == (2, "error: pipeline default/demo not found\n")
    assert (await cli.run("pipeline", "delete", "team/demo")).out == "pipeline team/demo deleted\n"
    assert not fake.pipelines


async def test_a_repeated_trigger_starts_one_run(cli: Cli, fake: FakePipelineServer) -> None:
    fake.add_pipeline("demo")
    fake.away_for["TriggerPipeline"] = 1
    result = await cli.run("pipeline", "trigger", "demo", "--var", "a=1", "--var", "b=x=y", "--branch", "main")
    assert result.code == 0, result.err
    requests = [r for r in fake.requests if isinstance(r, pipeline_pb2.TriggerPipelineRequest)]
    assert len({r.request_id for r in requests}) == 1
    assert requests[-1].request_id
    assert dict(requests[-1].variables) == {"a": "1", "b": "x=y"}
    assert requests[-1].branch == "main"
    first = await cli.run("pipeline", "trigger", "demo", "--request-id", "k", "-o", "json")
    second = await cli.run("pipeline", "trigger", "demo", "--request-id", "k", "-o", "json")
    assert json.loads(first.out)["run_id"] == json.loads(second.out)["run_id"] == "run-2"


async def test_runs_are_listed_shown_and_stopped(cli: Cli, fake: FakePipelineServer) -> None:
    run = fake.add_run()
    await run.job("build", pipeline_pb2.PIPELINE_STATUS_RUNNING)
    await run.step("build/compile", steprun_pb2.STEP_RUN_STATUS_RUNNING)
    listed = await cli.run("run", "list", "--status", "pending")
    assert run.run_id in listed.out
    assert "no runs" in (await cli.run("run", "list", "--status", "failed")).out
    shown = await cli.run("run", "show", run.run_id)
    assert "compile" in shown.out
    assert "agent-1" in shown.out
    assert "agent-1-id" not in shown.out
    stopped = await cli.run("run", "stop", run.run_id, "--reason", "wrong branch")
    assert (stopped.code, stopped.out) == (0, f"run {run.run_id} stopped\n")
    assert "CANCELLED" in (await cli.run("run", "show", run.run_id)).out
    assert (await cli.run("run", "show", "nope")).code == 2


async def test_the_pipeline_of_listed_runs_is_named_in_either_way(cli: Cli, fake: FakePipelineServer) -> None:
    fake.add_run("demo")
    for words in (["demo"], ["--pipeline", "demo"], ["demo", "--pipeline", "demo"]):
        result = await cli.run("run", "list", *words)
        assert result.code == 0, result.err
        asked = [request for request in fake.requests if isinstance(request, pipeline_pb2.ListPipelineRunsRequest)][-1]
        assert asked.pipeline_id == fake.pipelines["default", "demo"].pipeline_id
    both = await cli.run("run", "list", "demo", "--pipeline", "other")
    assert both.code == 2


async def test_a_pipeline_without_runs_never_ran(cli: Cli, fake: FakePipelineServer) -> None:
    fake.add_pipeline("fresh").status = pipeline_pb2.PIPELINE_STATUS_PENDING
    ran = fake.add_pipeline("used")
    ran.status, ran.total_runs = pipeline_pb2.PIPELINE_STATUS_PENDING, 1
    rows = {row.split()[1]: row for row in (await cli.run("pipeline", "list")).out.splitlines()}
    assert "never ran" in rows["fresh"]
    assert "PENDING" not in rows["fresh"]
    assert "PENDING" in rows["used"]


async def test_a_run_without_logs_says_so(cli: Cli, fake: FakePipelineServer) -> None:
    run = fake.add_run()
    await run.job("build", pipeline_pb2.PIPELINE_STATUS_PENDING)
    early = await cli.run("logs", run.run_id)
    assert (early.code, early.out) == (0, "")
    assert early.err == f"run {run.run_id} has no logs: no step of it has started (the run is pending)\n"
    step = await run.step("build/compile", steprun_pb2.STEP_RUN_STATUS_SUCCESS)
    await run.log(step, complete=True)
    silent = await cli.run("logs", run.run_id)
    assert silent.err == f"run {run.run_id} has no logs: its steps wrote nothing (the run is pending)\n"
    other = await cli.run("logs", run.run_id, "--job", "lint")
    assert "has no such logs" in other.err
    await run.log(step, b"here\n", complete=True)
    assert (await cli.run("logs", run.run_id)).err == ""


async def test_agents_are_a_row_each(cli: Cli) -> None:
    result = await cli.run("agent", "list")
    assert result.code == 0, result.err
    row = result.out.splitlines()[1]
    assert row.split()[:3] == ["agent-1", "IDLE", "0/4"]
    assert "arch=arm64, os=linux" in row


async def test_a_method_the_server_does_not_know_is_no_traceback(cli: Cli) -> None:
    result = await cli.run("step", "retry", "s1")
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err


@pytest.mark.parametrize("extra", [[], ["-f"]])
async def test_logs_of_a_step_are_its_very_bytes(cli: Cli, fake: FakePipelineServer, extra: list[str]) -> None:
    run = fake.add_run()
    step = await run.step("build/compile", steprun_pb2.STEP_RUN_STATUS_SUCCESS)
    await run.log(step, b"one\r\n", b"\x1b[31mtwo", 5, b"three", complete=True)
    result = await cli.run("logs", step, *extra)
    assert result.code == 0, result.err
    assert result.out == "one\r\n\x1b[31mtwo\n[5 bytes of log lost]\nthree"


async def test_logs_of_a_run_step_by_step(cli: Cli, fake: FakePipelineServer) -> None:
    run = fake.add_run()
    for path in ("build/compile", "build/test", "lint/ruff"):
        step = await run.step(path, steprun_pb2.STEP_RUN_STATUS_SUCCESS)
        await run.log(step, b"a\nlast", complete=True)
    await run.run(pipeline_pb2.PIPELINE_STATUS_SUCCESS)
    result = await cli.run("logs", run.run_id, "-f")
    assert result.out.splitlines() == [
        f"{path} | {line}" for path in ("build/compile", "build/test", "lint/ruff") for line in ("a", "last")
    ]
    assert (await cli.run("logs", run.run_id, "--job", "lint")).out == "lint/ruff | a\nlint/ruff | last\n"
    assert (await cli.run("logs", run.run_id, "--step", "test")).out == "build/test | a\nbuild/test | last\n"
    nothing = await cli.run("logs", "nope")
    assert (nothing.code, nothing.err) == (2, "error: no run and no step run has the id nope\n")
