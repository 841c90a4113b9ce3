"""Following a run with a real process: live logs, exit codes, lost connections, Ctrl-C, a terminal."""

import asyncio
import json
import os
import pty
import re
import signal

import pytest

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from tests.cli.conftest import Cli, read_until
from tests.support.fake_pipeline_server import FakePipelineServer, PlayedRun

P_RUNNING = pipeline_pb2.PIPELINE_STATUS_RUNNING
P_SUCCESS = pipeline_pb2.PIPELINE_STATUS_SUCCESS
S_RUNNING = steprun_pb2.STEP_RUN_STATUS_RUNNING
S_SUCCESS = steprun_pb2.STEP_RUN_STATUS_SUCCESS


async def begin(run: PlayedRun, *paths: str) -> list[str]:
    await run.run(P_RUNNING, total=1)
    for path in paths:
        await run.job(path.partition("/")[0], P_RUNNING)
    return [await run.step(path, S_RUNNING) for path in paths]


async def end(run: PlayedRun, *paths: str, status: pipeline_pb2.PipelineStatus.ValueType = P_SUCCESS) -> None:
    for path in paths:
        await run.step(path, S_SUCCESS, duration=1_500)
    for path in paths:
        await run.job(path.partition("/")[0], P_SUCCESS, duration=2_000)
    await run.run(status, total=1, completed=1)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (pipeline_pb2.PIPELINE_STATUS_SUCCESS, 0),
        (pipeline_pb2.PIPELINE_STATUS_FAILED, 1),
        (pipeline_pb2.PIPELINE_STATUS_CANCELLED, 3),
        (pipeline_pb2.PIPELINE_STATUS_PARTIAL, 4),
        (pipeline_pb2.PIPELINE_STATUS_TIMEOUT, 5),
    ],
)
async def test_the_code_of_the_run_is_the_code_of_the_command(
    cli: Cli, fake: FakePipelineServer, status: pipeline_pb2.PipelineStatus.ValueType, code: int
) -> None:
    run = fake.add_run()
    [step] = await begin(run, "build/compile")
    await run.log(step, b"hello\n", complete=True)
    await end(run, "build/compile", status=status)
    result = await cli.run("run", "watch", run.run_id)
    assert result.code == code, result.err
    assert result.out.splitlines()[-1].startswith(f"run {run.run_id} of default/demo: ")


async def test_trigger_and_follow_tells_the_story_in_order(cli: Cli, fake: FakePipelineServer) -> None:
    fake.add_pipeline("demo")
    process = await cli.start("pipeline", "trigger", "demo", "--follow")
    await fake.triggered.wait()
    run = fake.runs["run-1"]
    [step] = await begin(run, "build/compile")
    await run.log(step, b"first\nsec")
    await read_until(process, "build/compile | first\n")
    await end(run, "build/compile")
    await run.log(step, b"ond\nrest", complete=True)
    result = await cli.finish(process)
    assert result.code == 0, result.err
    assert result.err == ""
    assert result.out.splitlines()[:4] == [
        "build/compile | second",
        "build/compile | rest",
        "==> build/compile SUCCESS in 1.5s",
        "==> build SUCCESS in 2.0s",
    ]
    _, of_job, of_step = [line.split() for line in result.out.splitlines()[4:7]]
    assert of_job[:2] == ["build", "SUCCESS"]
    assert of_step[:2] == ["compile", "SUCCESS"]
    assert of_step[-1] == "agent-1"


async def test_lines_of_steps_that_run_at_once_never_mix(cli: Cli, fake: FakePipelineServer) -> None:
    fake.add_pipeline("demo")
    process = await cli.start("pipeline", "trigger", "demo", "--follow")
    await fake.triggered.wait()
    run = fake.runs["run-1"]
    paths = [f"job{n}/step" for n in range(4)]
    steps = await begin(run, *paths)
    for number in range(50):
        for step in steps:
            await run.log(step, f"{step} line {number} st".encode(), b"art and end\n")
    for step in steps:
        await run.log(step, b"no end of line", complete=True)
    await end(run, *paths)
    result = await cli.finish(process)
    logged = [line for line in result.out.splitlines() if " | " in line]
    for path, step in zip(paths, steps, strict=True):
        assert [line for line in logged if line.startswith(f"{path} | ")] == [
            *(f"{path} | {step} line {number} start and end" for number in range(50)),
            f"{path} | no end of line",
        ]
    assert len(logged) == 4 * 51


async def test_a_restart_of_the_server_loses_and_repeats_nothing(cli: Cli, fake: FakePipelineServer) -> None:
    run = fake.add_run()
    [step] = await begin(run, "build/compile")
    process = await cli.start("run", "watch", run.run_id)
    await run.log(step, b"one\ntw")
    seen = await read_until(process, "| one\n")
    await fake.restart()
    await run.log(step, b"o\nthree\n", complete=True)
    await end(run, "build/compile")
    result = await cli.finish(process)
    assert result.code == 0, result.err
    assert result.err == "connection lost, resuming\n"
    story = (seen + result.out).splitlines()
    assert [line for line in story if " | " in line] == [f"build/compile | {w}" for w in ("one", "two", "three")]
    states = [line for line in story if line.startswith("==>")]
    assert sorted(states[:3]) == ["==> build RUNNING", "==> build/compile RUNNING on agent-1", "==> run RUNNING"]
    assert states[3:] == ["==> build/compile SUCCESS in 1.5s", "==> build SUCCESS in 2.0s"]


@pytest.mark.parametrize("sent", [0, 1, 2, 3])
async def test_a_stream_cut_anywhere_is_taken_up_again(cli: Cli, fake: FakePipelineServer, sent: int) -> None:
    run = fake.add_run()
    paths = ["a/one", "a/two", "b/three"]
    steps = await begin(run, *paths)
    for step in steps:
        await run.log(step, b"x\n", b"y\n", b"z\n", b"end", complete=True)
    fake.cut_after = {
        "StreamStepRunStatus": sent,
        "StreamJobStatus": min(sent, 1),
        "StreamPipelineStatus": min(sent, 1),
        "StreamStepRunLogs": sent,
    }
    process = await cli.start("run", "watch", run.run_id)
    seen = await read_until(process, "b/three | end\n")
    await end(run, *paths)
    result = await cli.finish(process)
    assert result.code == 0, result.err
    lines = [line for line in (seen + result.out).splitlines() if " | " in line]
    assert sorted(lines) == sorted(f"{path} | {word}" for path in paths for word in ("x", "y", "z", "end"))
    states = [line for line in (seen + result.out).splitlines() if line.startswith("==>")]
    assert len(states) == len(set(states))
    ends = [state for state in states if "SUCCESS" in state]
    assert sorted(ends) == sorted(
        [f"==> {job} SUCCESS in 2.0s" for job in "ab"] + [f"==> {path} SUCCESS in 1.5s" for path in paths]
    )


async def test_logs_of_the_past_are_not_repeated_by_watch(cli: Cli, fake: FakePipelineServer) -> None:
    run = fake.add_run()
    [old] = await begin(run, "build/compile")
    await run.log(old, b"old\n", complete=True)
    await run.step("build/compile", S_SUCCESS)
    new = await run.step("build/test", S_RUNNING)
    await run.log(new, b"new\n", complete=True)
    process = await cli.start("run", "watch", run.run_id)
    seen = await read_until(process, "build/test | new\n")
    await end(run, "build/test")
    result = await cli.finish(process)
    assert "| old" not in seen + result.out


async def test_following_only_the_logs_of_a_live_run(cli: Cli, fake: FakePipelineServer) -> None:
    run = fake.add_run()
    steps = await begin(run, "build/compile", "lint/ruff")
    for step in steps:
        await run.log(step, b"a\nb", complete=True)
    process = await cli.start("logs", run.run_id, "-f", "--job", "lint")
    seen = await read_until(process, "| a\n")
    await end(run, "build/compile", "lint/ruff")
    result = await cli.finish(process)
    assert (seen + result.out).splitlines() == ["lint/ruff | a", "lint/ruff | b"]


async def test_the_run_as_json_is_all_there_is_on_stdout(cli: Cli, fake: FakePipelineServer) -> None:
    run = fake.add_run()
    [step] = await begin(run, "build/compile")
    await run.log(step, b"hello\n", complete=True)
    process = await cli.start("run", "watch", run.run_id, "-o", "json")
    await end(run, "build/compile")
    result = await cli.finish(process)
    assert json.loads(result.out)["run_id"] == run.run_id
    assert "build/compile" in result.err


async def test_ctrl_c_detaches_and_says_how_to_come_back(cli: Cli, fake: FakePipelineServer) -> None:
    run = fake.add_run()
    [step] = await begin(run, "build/compile")
    process = await cli.start("run", "watch", run.run_id)
    await run.log(step, b"one\nunfinished")
    await read_until(process, "| one\n")
    process.send_signal(signal.SIGINT)
    result = await cli.finish(process)
    assert result.code == 130
    assert result.out == "build/compile | unfinished\n"
    assert result.err == f"detached, the run goes on: watch it again with `arcentra run watch {run.run_id}`\n"
    assert fake.calls["StopPipeline"] == 0
    await run.log(step, complete=True)


async def test_a_terminal_sees_a_status_line_and_whole_lines(cli: Cli, fake: FakePipelineServer) -> None:
    fake.add_pipeline("demo")
    ours, theirs = pty.openpty()
    cli.env |= {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    process = await cli.start("pipeline", "trigger", "demo", "--follow", stdout=theirs)
    os.close(theirs)
    reading = asyncio.get_running_loop().run_in_executor(None, read_terminal, ours)
    await fake.triggered.wait()
    run = fake.runs["run-1"]
    [step] = await begin(run, "build/compile")
    await run.log(step, b"\x1b[31mhello\x1b[0m\x1b[2J\n", complete=True)
    await end(run, "build/compile")
    shown = await reading
    assert await process.wait() == 0
    assert "\x1b[2J" not in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert "build/compile | hello\r\n" in plain
    assert "jobs" in plain
    assert f"run {run.run_id} of default/demo: SUCCESS" in plain
    assert "\x1b[?25h" in shown  # the cursor is back


def read_terminal(descriptor: int) -> str:
    """Everything written to a terminal until its other end is closed."""
    data = b""
    try:
        while piece := os.read(descriptor, 65536):
            data += piece
    except OSError:  # how Linux tells that the other end is closed
        pass
    finally:
        os.close(descriptor)
    return data.decode()
