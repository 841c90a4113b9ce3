"""Faults of the agent itself, and of what it keeps: no step ends by them but the one that has the fault."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from tests.agent.processes import AgentProcess, Gate, end_of, gone, host_pids, is_alive, running_agent, script
from tests.support.fake_control_plane import FakeControlPlane

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


async def test_an_agent_that_breaks_leaves_its_steps_to_the_next(plane: FakeControlPlane, tmp_path: Path) -> None:
    """By a file of its own that was damaged: there is no such id, and so no heartbeat that tells it."""
    ready, gate = Gate(tmp_path / "ready"), Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work") as agent:
        step = plane.dispatch("step-1", args=script(f"echo $$ > {ready.path}", f"read line < {gate.path}", "echo on"))
        pid = int(await ready.passed())
        await agent.kill()
        kept = agent.work_dir / "workspaces.json"
        whole = kept.read_text()
        kept.write_text(json.dumps({"job-1": ["job-1", "\ud800"]}))
        await agent.start()
        code, errors = await agent.ended()
        assert code == 1
        assert is_alive(pid)
        assert "agent_broke" in errors
        assert step.statuses == ["RUNNING"]
        kept.write_text(whole)
        await agent.start_again()
        assert list(plane.heartbeats[0].running_step_run_ids) == ["step-1"]
        await gate.open()
        await plane.until(lambda: step.end)
    assert step.statuses == ["RUNNING", "SUCCESS"]
    assert bytes(step.log) == b"on\n"


async def test_an_agent_that_cannot_take_a_step_over_leaves_the_others(plane: FakeControlPlane, tmp_path: Path) -> None:
    gate, never = Gate(tmp_path / "gate"), Gate(tmp_path / "never")
    async with running_agent(plane, tmp_path / "work") as agent:
        pids = []
        for step_run_id in ("step-1", "step-2", "step-3"):
            plane.dispatch(step_run_id, args=script(f"echo $$ > {gate.path}", f"read line < {never.path}"))
            pids.append(int(await gate.passed()))
        await plane.until(lambda: all(step.is_running for step in plane.steps.values()))
        await agent.kill()
        # More than a message can carry, in the one that is taken over last.
        (*_, last) = (agent.work_dir / "steps").iterdir()
        record = last / "step.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "attempt": 1 << 40}))
        await agent.start()
        assert (await agent.ended())[0] == 1
        assert all(is_alive(pid) for pid in pids)
        # For the next process of the agent.
        assert len(list((agent.work_dir / "steps").glob("*/step.json"))) == len(pids)


async def test_an_agent_that_breaks_while_it_drains_leaves_its_steps(plane: FakeControlPlane, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work") as agent:
        step = plane.dispatch("step-1", args=script(f"echo $$ > {gate.path}", "exec sleep 1000"))
        pid = int(await gate.passed())
        await plane.until(lambda: step.is_running)
        await agent.kill()
        (agent.work_dir / "workspaces.json").write_text(json.dumps({"job-1": ["job-1", "\ud800"]}))
        await plane.stop()
        await agent.start()
        await _logged(agent, "register_failed")
        agent.signal(signal.SIGTERM)
        await _logged(agent, "draining")
        await plane.start()
        assert (await agent.ended())[0] == 1
        assert is_alive(pid)


async def test_an_agent_that_the_server_refuses_ends_its_steps(plane: FakeControlPlane, tmp_path: Path) -> None:
    """It is nobody's any more, and so are they."""
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work") as agent:
        plane.dispatch("step-1", args=script(f"echo $$ > {gate.path}", "exec sleep 1000"))
        pid = int(await gate.passed())
        await agent.kill()
        plane.tokens.clear()
        again = AgentProcess(plane, agent.work_dir, token="")
        await again.start()
        assert (await again.ended())[0] == 1
        assert not is_alive(pid)
        assert not list((agent.work_dir / "steps").iterdir())


async def test_an_outcome_that_cannot_be_told_fails_its_step_alone(plane: FakeControlPlane, tmp_path: Path) -> None:
    ready, gate, other = (Gate(tmp_path / name) for name in ("ready", "gate", "other"))
    async with running_agent(plane, tmp_path / "work") as agent:
        step = plane.dispatch("step-1", args=script(f"echo > {ready.path}", f"read line < {gate.path}"))
        await ready.passed()
        (host,) = host_pids(agent.work_dir)
        going_on = plane.dispatch("step-2", args=script(f"read line < {other.path}"))
        await plane.until(lambda: going_on.is_running and len(host_pids(agent.work_dir)) == 2)
        await agent.kill()
        await gate.open()
        await gone(host)
        file = agent.work_dir / "steps" / "step-1" / "outcome.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "status": "OF_A_LATER_VERSION"}))
        await agent.start_again()
        await plane.until(lambda: step.end)
        await other.open()
        await plane.until(lambda: going_on.end)
    assert (end_of(step).failure_reason, step.statuses) == ("internal", ["RUNNING", "FAILED"])
    assert "ValueError" in end_of(step).error_message
    assert "step_run_broke" in agent.errors
    assert going_on.statuses == ["RUNNING", "SUCCESS"]


async def test_a_cursor_that_cannot_be_written_harms_nobody(plane: FakeControlPlane, tmp_path: Path) -> None:
    ready, gate, told = (Gate(tmp_path / name) for name in ("ready", "gate", "told"))
    async with running_agent(plane, tmp_path / "work") as agent:
        other = plane.dispatch("step-1", args=script(f"echo > {told.path}", f"read line < {told.path}"))
        await told.passed()
        step = plane.dispatch("step-2", args=script(f"echo > {ready.path}", f"read line < {gate.path}", "echo hello"))
        await ready.passed()
        cursor = agent.work_dir / "steps" / "step-2" / "cursor"
        cursor.unlink()
        cursor.mkdir()
        await gate.open()
        await plane.until(lambda: step.end)
        await told.open()
        await plane.until(lambda: other.end)
    assert bytes(step.log) == b"hello\n"
    assert step.statuses == other.statuses == ["RUNNING", "SUCCESS"]


async def test_an_outcome_is_told_although_its_log_cannot_be_read_and_the_call_fails(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    ready, gate = Gate(tmp_path / "ready"), Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work") as agent:
        step = plane.dispatch("step-1", args=script(f"echo > {ready.path}", f"read line < {gate.path}", "echo words"))
        await ready.passed()
        (host,) = host_pids(agent.work_dir)
        await plane.stop()
        await gate.open()
        await gone(host)
        os.truncate(agent.work_dir / "logs" / "step-1.log", 0)
        plane.lose_log_answers = 1
        await plane.start()
        await plane.until(lambda: step.end)
    assert step.statuses == ["RUNNING", "SUCCESS"]
    # The gap shows: so much was written, and none of it is there.
    assert (end_of(step).log_size, bytes(step.log)) == (6, b"")


@pytest.mark.parametrize("times", [1, 2])
async def test_an_agent_that_leaves_is_not_stopped(plane: FakeControlPlane, tmp_path: Path, times: int) -> None:
    """As by systemd, which sends SIGTERM to an agent that was told to make room for the next one."""
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work") as agent:
        step = plane.dispatch("step-1", args=script(f"echo $$ > {gate.path}", "exec sleep 1000"))
        pid = int(await gate.passed())
        await plane.until(lambda: step.is_running)
        undecided = plane.dispatch("step-2", args=script("true"))
        undecided.hold_answers = True
        await plane.until(lambda: undecided.is_running)
        agent.signal(signal.SIGUSR2)
        await _logged(agent, "leaving")
        agent.signal(signal.SIGTERM)
        # It is not the end: the agent waits for the server, which still has to say whether a step is started.
        await plane.heartbeat(lambda _: True)
        if times == 2:
            agent.signal(signal.SIGTERM)
        assert (await agent.ended())[0] == 0
        assert is_alive(pid)
        assert (agent.work_dir / "steps" / "step-1").exists()
        plane.may_answer.set()


async def test_a_host_that_breaks_says_why(plane: FakeControlPlane, tmp_path: Path) -> None:
    """By the log, which it has to make sure of when the step has ended, and which is gone."""
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work") as agent:
        lines = ("setsid env -i sleep 1000 &", f"echo $! > {gate.path}", f"rm {agent.work_dir}/logs/*", "echo words")
        step = plane.dispatch("step-1", args=script(*lines))
        pid = int(await gate.passed())
        await plane.until(lambda: step.end)
        assert not is_alive(pid)
    assert end_of(step).failure_reason == "agent_lost"
    assert "FileNotFoundError" in end_of(step).error_message
    assert "step_host_broke" in agent.errors


async def test_what_is_left_is_deleted_when_the_agent_is_connected(plane: FakeControlPlane, tmp_path: Path) -> None:
    """Until then it takes no time, which belongs to the steps that are taken over."""
    work_dir = tmp_path / "work"
    left = work_dir / "workspaces" / "job-9" / "below"
    left.mkdir(parents=True)
    await plane.stop()
    agent = AgentProcess(plane, work_dir)
    await agent.start()
    try:
        await _logged(agent, "register_failed")
        assert not (work_dir / "workspaces" / "job-9").exists()
        assert [entry.name for entry in (work_dir / "trash").glob("*/*")] == ["below"]
        await plane.start()
        await plane.heartbeat(lambda _: not list((work_dir / "trash").iterdir()))
    finally:
        await agent.end()


async def test_a_log_that_nobody_wants_takes_no_room(plane: FakeControlPlane, tmp_path: Path) -> None:
    limit = 2 << 20
    ready, gate = Gate(tmp_path / "ready"), Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work", "--spool-limit", f"{limit}B") as agent:
        step = plane.dispatch(
            "step-1",
            args=script(
                "echo words",
                f"read line < {gate.path}",
                f"head -c {limit} /dev/zero",
                f"echo > {ready.path}",
                f"read line < {gate.path}",
                f"head -c {limit} /dev/zero",
                f"echo > {ready.path}",
                f"read line < {gate.path}",
            ),
        )
        await plane.until(lambda: step.log)
        step.refuse_logs = "LOG_LIMIT"
        await gate.open()
        await ready.passed()
        await plane.heartbeat(lambda _: "log_given_up" in agent.errors)
        # The next process of the agent knows as much.
        await agent.kill()
        await agent.start_again()
        await gate.open()
        await ready.passed()
        await plane.heartbeat(lambda _: not (agent.work_dir / "logs" / "step-1.log").stat().st_size)
        other = plane.dispatch("step-2", args=script("echo one line"))
        await plane.until(lambda: other.end)
        await gate.open()
        await plane.until(lambda: step.end)
    assert step.statuses == other.statuses == ["RUNNING", "SUCCESS"]
    assert bytes(step.log) == b"words\n"
    assert end_of(step).log_size == len("words\n") + 2 * limit


async def test_a_container_that_is_made_while_its_host_is_killed_is_ended(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    """A runtime that has not made the container when it is told to remove it, and does so a moment later."""
    begun, made = Gate(tmp_path / "begun"), tmp_path / "made"
    runtime = tmp_path / "runtime"
    runtime.write_text(
        f"""#!/bin/bash
case "$1" in
    run) trap '' TERM; echo > {begun.path}; until test -e {tmp_path}/asked; do :; done
        env -i setsid sleep 1000 & echo $! > {made}.new; mv {made}.new {made}; wait;;
    kill) touch {tmp_path}/asked; test -e {tmp_path}/looked && kill -9 $(cat {made});;
    rm) until test -e {made}; do :; done; touch {tmp_path}/looked;;
esac
"""
    )
    runtime.chmod(0o755)
    async with running_agent(plane, tmp_path / "work", "--container-runtime", str(runtime)) as agent:
        step = plane.dispatch("step-1", args=script("true"), image="any")
        await begun.passed()
        (host,) = host_pids(agent.work_dir)
        os.kill(host, signal.SIGKILL)
        await plane.until(lambda: step.end)
        # Killed, if perhaps not dead yet; a container that was forgotten hangs here.
        await gone(int(made.read_text()))
    assert end_of(step).failure_reason == "agent_lost"


async def _logged(agent: AgentProcess, words: str) -> None:
    """Wait until the agent has logged something."""
    while words not in agent.errors:  # noqa: ASYNC110 - a file tells nobody of its growth
        await asyncio.sleep(0.05)
