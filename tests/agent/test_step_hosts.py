"""Steps whose agent, host or server is gone for a while: real processes, killed, and others that go on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arcentra_api.agent.v1 import agent_pb2
from tests.agent.processes import Gate, end_of, gone, host_pids, is_alive, running_agent, script
from tests.support.fake_control_plane import HEARTBEAT_MS, FakeControlPlane

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

SECRET = "hunter2-hunter2"
SHORT_LEASE_MS, LONG_LEASE_MS = 3_000, 12_000


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGUSR2, 0)])
async def test_a_step_outlives_its_agent(
    plane: FakeControlPlane, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    ready, gate, told = (Gate(tmp_path / name) for name in ("ready", "gate", "told"))
    lines = (
        "seq 1 20000",
        f"echo > {ready.path}",
        f"read line < {gate.path}",
        "seq 20001 60000",
        f"echo > {told.path}",
        f"read line < {gate.path}",
        "echo a=1 >> $ARCENTRA_OUTPUT",
        "seq 60001 61000",
    )
    async with running_agent(plane, tmp_path / "work") as agent:
        plane.lose_log_answers = 1
        step = plane.dispatch("step-1", args=script(*lines))
        await ready.passed()
        await plane.until(lambda: step.log)
        agent.signal(number)
        assert (await agent.ended())[0] == code
        await gate.open()
        await told.passed()
        await agent.start_again()
        assert list(plane.heartbeats[0].running_step_run_ids) == ["step-1"]
        assert list(plane.heartbeats[0].workspace_job_ids) == ["job-1"]
        await gate.open()
        await plane.until(lambda: step.end)
        await plane.heartbeat(lambda beat: not beat.running_step_run_ids)
    assert step.statuses == ["RUNNING", "SUCCESS"]
    assert bytes(step.log) == b"".join(b"%d\n" % line for line in range(1, 61001))
    assert step.log_at_end == end_of(step).log_size == len(step.log)
    assert dict(end_of(step).outputs) == {"a": "1"}
    for name in ("steps", "logs", "scratch"):
        assert not list((tmp_path / "work" / name).iterdir()), name


async def test_an_agent_that_leaves_waits_for_what_the_server_decides(plane: FakeControlPlane, tmp_path: Path) -> None:
    """A start that is accepted while the agent leaves is one that happens."""
    witness = tmp_path / "witness"
    async with running_agent(plane, tmp_path / "work") as agent:
        step = plane.dispatch("step-1", args=script(f"echo once >> {witness}"))
        step.hold_answers = True
        await plane.until(lambda: step.is_running)
        agent.signal(signal.SIGUSR2)
        await plane.heartbeat(lambda beat: beat.draining)
        plane.may_answer.set()
        assert (await agent.ended())[0] == 0
        await agent.start_again()
        await plane.until(lambda: step.end)
    assert step.statuses == ["RUNNING", "SUCCESS"]
    assert witness.read_text() == "once\n"


async def test_an_outcome_of_which_no_agent_knew_is_reported(plane: FakeControlPlane, tmp_path: Path) -> None:
    ready, gate = Gate(tmp_path / "ready"), Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work") as agent:
        lines = (f"echo > {ready.path}", f"read line < {gate.path}", "echo last words", "exit 3")
        step = plane.dispatch("step-1", args=script(*lines))
        await ready.passed()
        (host,) = host_pids(agent.work_dir)
        await agent.kill()
        await gate.open()
        await gone(host)
        assert not step.end
        await agent.start_again()
        await plane.until(lambda: step.end)
    assert step.statuses == ["RUNNING", "FAILED"]
    assert (end_of(step).exit_code, end_of(step).failure_reason) == (3, "script")
    assert bytes(step.log) == b"last words\n"
    assert step.log_at_end == end_of(step).log_size == len(step.log)


async def test_an_outcome_that_a_stopped_agent_could_not_deliver_is_reported_by_the_next(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    ready, gate = Gate(tmp_path / "ready"), Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work") as agent:
        step = plane.dispatch("step-1", args=script(f"echo > {ready.path}", f"read line < {gate.path}", "echo done"))
        await ready.passed()
        (host,) = host_pids(agent.work_dir)
        await plane.stop()
        await gate.open()
        await gone(host)
        agent.signal(signal.SIGTERM)
        agent.signal(signal.SIGINT)
        assert (await agent.ended())[0] == 1
        await plane.start()
        await agent.start_again()
        await plane.until(lambda: step.end)
    assert step.statuses == ["RUNNING", "SUCCESS"]
    assert bytes(step.log) == b"done\n"


async def test_a_step_that_was_taken_over_is_cancelled(plane: FakeControlPlane, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work", "--kill-grace", "0.2") as agent:
        lines = ("trap '' TERM", "setsid sleep 1000 & a=$!", f"echo $a $$ > {gate.path}", "wait")
        step = plane.dispatch("step-1", args=script(*lines))
        pids = [int(pid) for pid in (await gate.passed()).split()]
        await agent.kill()
        await agent.start_again()
        plane.cancel("step-1", "changed my mind")
        await plane.until(lambda: step.end)
        assert not any(map(is_alive, pids))
    assert step.statuses == ["RUNNING", "CANCELLED"]
    assert (end_of(step).failure_reason, end_of(step).error_message) == ("cancelled", "changed my mind")


async def test_a_step_whose_lease_is_gone_is_killed_when_its_agent_is_back(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work") as agent:
        step = plane.dispatch("step-1", args=script(f"echo $$ > {gate.path}", "exec sleep 1000"))
        pid = int(await gate.passed())
        await agent.kill()
        step.run.lease_token = "another"
        await agent.start_again()
        plane.cancel("step-1", "not yours any more")
        await plane.heartbeat(lambda beat: not beat.running_step_run_ids)
        assert not is_alive(pid)
    assert step.statuses == ["RUNNING"]
    assert not list((tmp_path / "work" / "steps").iterdir())


@pytest.mark.parametrize("is_agent_there", [True, False])
async def test_a_killed_host_fails_its_step_and_leaves_nothing(
    plane: FakeControlPlane, tmp_path: Path, *, is_agent_there: bool
) -> None:
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work") as agent:
        lines = ("echo started", "setsid sleep 1000 & a=$!", f"echo $a $$ > {gate.path}", "wait")
        step = plane.dispatch("step-1", args=script(*lines))
        pids = [int(pid) for pid in (await gate.passed()).split()]
        await plane.until(lambda: step.log)
        (host,) = host_pids(agent.work_dir)
        if not is_agent_there:
            await agent.kill()
        os.kill(host, signal.SIGKILL)
        if not is_agent_there:
            await gone(host)
            await agent.start_again()
        await plane.until(lambda: step.end)
        assert not any(map(is_alive, pids))
        await plane.heartbeat(lambda beat: not beat.running_step_run_ids)
    assert step.statuses == ["RUNNING", "FAILED"]
    assert end_of(step).failure_reason == "agent_lost"
    assert bytes(step.log) == b"started\n"
    assert end_of(step).log_size == len(step.log)
    assert not list((tmp_path / "work" / "scratch").iterdir())


@pytest.mark.parametrize("who", ["agent", "server"])
async def test_a_step_whose_lease_is_not_renewed_is_killed(plane: FakeControlPlane, tmp_path: Path, who: str) -> None:
    """At once, however long a step may take to end otherwise: the server does not wait for that."""
    gate = Gate(tmp_path / "gate")
    plane.lease_ms = SHORT_LEASE_MS
    async with running_agent(plane, tmp_path / "work", "--kill-grace", "1000") as agent:
        step = plane.dispatch(
            "step-1", args=script("trap '' TERM", f"echo $$ > {gate.path}", "while :; do sleep 1; done")
        )
        pid = int(await gate.passed())
        await (agent.kill() if who == "agent" else plane.stop())
        await gone(pid)
        await (agent.start_again() if who == "agent" else plane.start())
        await plane.until(lambda: step.end)
    assert step.statuses == ["RUNNING", "FAILED"]
    assert (end_of(step).failure_reason, end_of(step).exit_code) == ("agent_lost", 1)
    assert "not renewed in time" in end_of(step).error_message


async def test_a_step_that_was_taken_over_goes_on_while_its_lease_is_renewed(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    plane.lease_ms = LONG_LEASE_MS
    async with running_agent(plane, tmp_path / "work") as agent:
        step = plane.dispatch("step-1", args=script(f"read line < {gate.path}"))
        await plane.until(lambda: step.is_running and host_pids(agent.work_dir))
        await agent.kill()
        await agent.start_again()
        # Longer than the lease was good for when the agent was killed.
        await plane.until(lambda: len(plane.heartbeats) > LONG_LEASE_MS // HEARTBEAT_MS)
        await gate.open()
        await plane.until(lambda: step.end)
    assert step.statuses == ["RUNNING", "SUCCESS"]


async def test_no_secret_is_on_the_disk_at_any_time(plane: FakeControlPlane, tmp_path: Path) -> None:
    ready, gate = Gate(tmp_path / "ready"), Gate(tmp_path / "gate")
    work_dir = tmp_path / "work"
    async with running_agent(plane, work_dir) as agent:
        step = plane.dispatch(
            "step-1",
            args=script(
                "echo $TOKEN",
                f"echo > {ready.path}",
                f"read line < {gate.path}",
                "echo t=$TOKEN > $ARCENTRA_OUTPUT; rm $ARCENTRA_OUTPUT; echo $TOKEN; exit 3",
            ),
            env={"ALSO": f"x-{SECRET}"},
            secrets={"TOKEN": SECRET},
        )
        await ready.passed()
        await plane.until(lambda: step.log)
        assert {"step.json", "pid", "cursor"} <= {file.name for file in _files_with(work_dir, "")}
        assert not _files_with(work_dir, SECRET)
        (host,) = host_pids(work_dir)
        await agent.kill()
        assert not _files_with(work_dir, SECRET)
        await gate.open()
        await gone(host)
        assert "outcome.json" in {file.name for file in _files_with(work_dir, "")}
        assert not _files_with(work_dir, SECRET)
        await agent.start_again()
        await plane.until(lambda: step.end)
        assert not _files_with(work_dir, SECRET)
    assert bytes(step.log) == b"***\n***\n"


async def test_a_host_that_others_are_forked_from_may_end(plane: FakeControlPlane, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work") as agent:
        first = plane.dispatch("step-1", args=script(f"read line < {gate.path}"))
        await plane.until(lambda: first.is_running and host_pids(agent.work_dir))
        assert agent.process is not None
        tasks = (Path("/proc") / str(agent.process.pid) / "task").glob("*/children")
        (zygote,) = " ".join(task.read_text() for task in tasks).split()
        os.kill(int(zygote), signal.SIGKILL)
        second = plane.dispatch("step-2", args=script("true"))
        await plane.until(lambda: second.end)
        await gate.open()
        await plane.until(lambda: first.end)
    assert first.statuses == second.statuses == ["RUNNING", "SUCCESS"]


async def test_a_workspace_outlives_the_agent_between_two_steps(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work") as agent:
        first = plane.dispatch("step-1", args={"command": ["touch", "made-by-first"]})
        await plane.until(lambda: first.end)
        # Until the agent has forgotten the step, which would hold the workspace.
        await plane.heartbeat(lambda beat: not beat.running_step_run_ids)
        await agent.kill()
        await agent.start_again()
        assert list(plane.heartbeats[0].workspace_job_ids) == ["job-1"]
        second = plane.dispatch("step-2", args={"command": "ls"})
        await plane.until(lambda: second.end)
        plane.send(agent_pb2.ConnectResponse(released_job_ids=["job-1"]))
        await plane.heartbeat(lambda beat: not beat.workspace_job_ids)
        await agent.kill()
        await agent.start_again()
        assert not plane.heartbeats[0].workspace_job_ids
    assert bytes(second.log) == b"made-by-first\n"


def test_a_step_host_knows_no_grpc() -> None:
    """It is there once a step: what it imports, every step pays for."""
    code = "import arcentra_agent.step_host.zygote, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run((sys.executable, "-c", code), check=True, capture_output=True, text=True, timeout=60)
    modules = json.loads(done.stdout)
    assert "arcentra_agent.plugins.git" in modules
    assert not [name for name in modules if name.split(".")[0] in {"grpc", "google", "arcentra_api"}]


def _files_with(work_dir: Path, text: str) -> list[Path]:
    """Return the regular files of a work directory that hold the text, in their names or in their contents."""
    found = []
    for file in work_dir.rglob("*"):
        # Some are removed while this looks.
        with contextlib.suppress(FileNotFoundError):
            if file.is_file() and (text in file.name or text.encode() in file.read_bytes()):
                found.append(file)
    return found
