"""The agent as a process, against a control plane that the test plays."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from arcentra_api.agent.v1 import agent_pb2
from tests.agent.processes import AgentProcess, Gate, connected, end_of, is_alive, running_agent, script
from tests.support.fake_control_plane import AGENT_ID, FakeControlPlane

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


async def test_a_step_runs_and_its_log_is_stored_before_its_end_is_reported(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with running_agent(plane, tmp_path / "work", "--labels", "os=linux"):
        step = plane.dispatch(
            "step-1",
            args=script('echo "$GREETING from $ARCENTRA_STEP_NAME"', "echo error > /dev/stderr", "echo done"),
            env={"GREETING": "hello"},
        )
        await plane.until(lambda: step.end)
        await plane.heartbeat(lambda beat: beat.workspace_job_ids == ["job-1"] and not beat.running_step_run_ids)
    assert step.statuses == ["RUNNING", "SUCCESS"]
    assert bytes(step.log) == b"hello from compile\nerror\ndone\n"
    assert step.log_at_end == end_of(step).log_size == len(step.log)
    assert [ack.status for ack in step.acks] == [agent_pb2.ACK_STATUS_OK]
    assert plane.registrations[0].labels == {"os": "linux"}
    assert plane.sequences[0] == list(range(1, len(plane.sequences[0]) + 1))
    assert not list((tmp_path / "work" / "logs").iterdir())


async def test_steps_of_a_job_share_a_workspace_until_the_job_is_released(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with running_agent(plane, tmp_path / "work"):
        first = plane.dispatch("step-1", args={"command": ["touch", "made-by-first"]})
        await plane.until(lambda: first.end)
        second = plane.dispatch("step-2", args={"command": "ls"})
        await plane.until(lambda: second.end)
        assert bytes(second.log) == b"made-by-first\n"
        plane.send(agent_pb2.ConnectResponse(released_job_ids=["job-1"]))
        await plane.heartbeat(lambda beat: not beat.workspace_job_ids)
    assert not list((tmp_path / "work" / "workspaces").iterdir())


async def test_nothing_is_started_when_the_running_report_is_refused(plane: FakeControlPlane, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    async with running_agent(plane, tmp_path / "work"):
        step = plane.dispatch("step-1", args=script(f"touch {witness}"))
        step.refuse_running = "LEASE_LOST"
        await plane.until(lambda: step.acks)
        await plane.heartbeat(lambda beat: not beat.running_step_run_ids)
        later = plane.dispatch("step-2", args=script("true"))
        await plane.until(lambda: later.end)
    assert step.reports == []
    assert not witness.exists()


async def test_a_redelivered_step_runs_once(plane: FakeControlPlane, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work"):
        step = plane.dispatch("step-1", args=script("echo once", f"read line < {gate.path}"))
        plane.deliver(step)
        await plane.until(lambda: step.is_running)
        plane.deliver(step)
        await gate.open()
        await plane.until(lambda: step.end)
    assert bytes(step.log) == b"once\n"
    assert step.statuses == ["RUNNING", "SUCCESS"]


async def test_a_new_lease_replaces_one_that_was_never_accepted(plane: FakeControlPlane, tmp_path: Path) -> None:
    """The report under the old lease is refused on its way; it must not stop the step under the new one."""
    async with running_agent(plane, tmp_path / "work"):
        plane.dispatch("step-1", args=script("echo once"), lease="old")
        step = plane.dispatch("step-1", args=script("echo once"), lease="new")
        await plane.until(lambda: step.end)
    assert step.statuses == ["RUNNING", "SUCCESS"]
    assert {report.lease_token for report in step.reports} == {"lease-new"}
    assert bytes(step.log) == b"once\n"


@pytest.mark.parametrize(
    ("fields", "status", "reason", "code", "words"),
    [
        ({"uses": "teleport"}, "FAILED", "plugin_missing", 127, "no plugin 'teleport'"),
        ({"args": {"script": "exit 3"}}, "FAILED", "script", 3, "exit code 3"),
        ({"args": {"script": "kill -9 $$"}}, "FAILED", "script", 137, "signal 9"),
        ({"args": {"script": 5}}, "FAILED", "validation", 2, "args.script: expected a text, got the number 5"),
        ({"args": {"command": ["/no/such"]}}, "FAILED", "script", 127, "/no/such"),
        ({"args": {"script": "true"}, "timeout": "soon"}, "FAILED", "validation", 2, "timeout: expected a duration"),
        ({"args": {"script": "true"}, "workspace": "../up"}, "FAILED", "validation", 2, "workspace"),
        ({"args": {"script": "true"}, "env": {"A B": "c"}}, "FAILED", "validation", 2, "env: expected a name"),
        ({"args": {"script": "exec sleep 600"}, "timeout": "100ms"}, "TIMEOUT", "timeout", 124, "limit of 100ms"),
    ],
)
async def test_how_steps_fail(
    plane: FakeControlPlane,
    tmp_path: Path,
    fields: dict[str, Any],
    status: str,
    reason: str,
    code: int,
    words: str,
) -> None:
    async with running_agent(plane, tmp_path / "work"):
        step = plane.dispatch("step-1", **fields)
        await plane.until(lambda: step.end)
    end = end_of(step)
    assert step.statuses == ["RUNNING", status]
    assert (end.failure_reason, end.exit_code, end.log_size) == (reason, code, len(step.log))
    assert words in end.error_message


async def test_cancel_kills_the_step_with_everything_it_started(plane: FakeControlPlane, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work", "--kill-grace", "0.2"):
        step = plane.dispatch(
            "step-1",
            args=script(
                "trap '' TERM",
                "sleep 1000 & a=$!",
                "setsid sleep 1000 & b=$!",
                "sh -c 'sleep 1000 & echo $! > inner; wait' & c=$!",
                "while [ ! -s inner ]; do :; done",
                f"echo $a $b $c $(cat inner) $$ > {gate.path}",
                "wait",
            ),
        )
        pids = [int(pid) for pid in (await gate.passed()).split()]
        assert len(pids) == 5
        plane.cancel("step-1", "changed my mind")
        plane.cancel("step-unknown")
        await plane.until(lambda: step.end)
        assert not any(is_alive(pid) for pid in pids)
    assert step.statuses == ["RUNNING", "CANCELLED"]
    assert (end_of(step).failure_reason, end_of(step).error_message) == ("cancelled", "changed my mind")


async def test_a_running_step_whose_lease_is_lost_is_killed_and_forgotten(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work", "--kill-grace", "0"):
        step = plane.dispatch("step-1", args=script(f"echo $$ > {gate.path}", "exec sleep 1000"))
        pid = int(await gate.passed())
        step.run.lease_token = "another"
        plane.cancel("step-1")
        await plane.heartbeat(lambda beat: not beat.running_step_run_ids)
        assert not is_alive(pid)
    assert step.statuses == ["RUNNING"]


async def test_a_step_outlives_the_server_and_its_log_is_whole(plane: FakeControlPlane, tmp_path: Path) -> None:
    ready, gate, told = (Gate(tmp_path / name) for name in ("ready", "gate", "told"))
    async with running_agent(plane, tmp_path / "work"):
        step = plane.dispatch(
            "step-1",
            args=script(
                "seq 1 20000",
                f"echo > {ready.path}",
                f"read line < {gate.path}",
                "seq 20001 60000",
                f"echo > {told.path}",
                f"read line < {gate.path}",
                "seq 60001 61000",
            ),
        )
        await ready.passed()
        await plane.until(lambda: step.log)
        await plane.stop()
        await gate.open()
        await told.passed()
        plane.lose_log_answers = 2
        await plane.start()
        await plane.until(lambda: plane.is_connected)
        await gate.open()
        await plane.until(lambda: step.end)
    assert step.statuses == ["RUNNING", "SUCCESS"]
    assert bytes(step.log) == b"".join(b"%d\n" % number for number in range(1, 61001))
    assert step.log_at_end == len(step.log)
    assert step.duplicates > 0
    assert len(plane.sequences) >= 2
    assert all(sequence[0] == 1 for sequence in plane.sequences)


async def test_an_end_reported_to_nobody_is_reported_again(plane: FakeControlPlane, tmp_path: Path) -> None:
    ready, gate, told = (Gate(tmp_path / name) for name in ("ready", "gate", "told"))
    async with running_agent(plane, tmp_path / "work"):
        lines = (f"echo > {ready.path}", f"read line < {gate.path}", f"echo > {told.path}")
        step = plane.dispatch("step-1", args=script(*lines))
        await ready.passed()
        await plane.stop()
        await gate.open()
        await told.passed()
        await plane.start()
        await plane.until(lambda: step.end)
        assert plane.sequences[-1][0] == 1
    assert step.statuses == ["RUNNING", "SUCCESS"]


async def test_a_log_the_server_does_not_want_does_not_hold_the_end_up(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work"):
        step = plane.dispatch("step-1", args=script("seq 1 1000"))
        step.refuse_logs = "LIMIT_REACHED"
        await plane.until(lambda: step.end)
    assert step.statuses == ["RUNNING", "SUCCESS"]
    assert end_of(step).log_size == sum(len(str(number)) + 1 for number in range(1, 1001))


async def test_a_cancel_that_comes_after_the_end_changes_nothing(plane: FakeControlPlane, tmp_path: Path) -> None:
    told = Gate(tmp_path / "told")
    async with running_agent(plane, tmp_path / "work"):
        plane.lose_log_answers = 1_000_000
        step = plane.dispatch("step-1", args=script("echo all there is", f"echo > {told.path}"))
        await told.passed()
        await plane.until(lambda: step.duplicates)
        plane.cancel("step-1")
        await plane.heartbeat(lambda beat: beat.running_step_run_ids == ["step-1"])
        plane.lose_log_answers = 0
        await plane.until(lambda: step.end)
    assert step.statuses == ["RUNNING", "SUCCESS"]
    assert bytes(step.log) == b"all there is\n"


async def test_the_server_asks_for_another_stream(plane: FakeControlPlane, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work"):
        step = plane.dispatch("step-1", args=script(f"read line < {gate.path}"))
        await plane.until(lambda: step.is_running)
        plane.send(agent_pb2.ConnectResponse(reconnect=True))
        await plane.until(lambda: len(plane.sequences) == 2 and plane.sequences[1])
        assert list(plane.heartbeats[-1].running_step_run_ids) == ["step-1"]
        await gate.open()
        await plane.until(lambda: step.end)
    assert step.statuses == ["RUNNING", "SUCCESS"]


async def test_a_drained_agent_finishes_the_jobs_it_has_and_takes_nothing_new(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work", "--drain-timeout", "1000") as agent:
        step = plane.dispatch("step-1", args=script(f"read line < {gate.path}", "echo last words"))
        await plane.until(lambda: step.is_running)
        agent.signal(signal.SIGTERM)
        await plane.heartbeat(lambda beat: beat.draining and beat.status == agent_pb2.AGENT_STATUS_DRAINING)
        # There is room for the next step of the job beside this one, as a server counts.
        assert plane.heartbeats[-1].max_concurrent_step_runs == 4
        refused = plane.dispatch("step-9", args=script("true"), job_id="job-2")
        await plane.until(lambda: refused.acks)
        await gate.open()
        await plane.until(lambda: step.end)
        await plane.heartbeat(lambda beat: not beat.running_step_run_ids)
        last = plane.dispatch("step-2", args=script("echo cleaned up"))
        await plane.until(lambda: last.end)
        plane.send(agent_pb2.ConnectResponse(released_job_ids=["job-1"]))
        code, errors = await agent.ended()
    assert code == 0, errors
    assert step.statuses == last.statuses == ["RUNNING", "SUCCESS"]
    assert bytes(step.log) == b"last words\n"
    assert refused.acks[0].status == agent_pb2.ACK_STATUS_FAILED


async def test_a_job_that_does_not_go_on_holds_a_drained_agent_up_for_a_while_only(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with running_agent(plane, tmp_path / "work", "--drain-timeout", "0.5") as agent:
        step = plane.dispatch("step-1", args=script("true"))
        await plane.until(lambda: step.end)
        await plane.heartbeat(lambda beat: not beat.running_step_run_ids)
        agent.signal(signal.SIGTERM)
        assert (await agent.ended())[0] == 0
        await agent.start_again()
        assert list(plane.heartbeats[0].workspace_job_ids) == ["job-1"]


async def test_a_drained_agent_waits_for_a_server_that_is_away_for_a_moment(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    plane.heartbeat_ms = 20_000
    async with running_agent(plane, tmp_path / "work", "--drain-timeout", "1000") as agent:
        step = plane.dispatch("step-1", args=script("true"))
        await plane.until(lambda: step.end)
        agent.signal(signal.SIGTERM)
        await plane.heartbeat(lambda beat: beat.draining)
        await plane.stop()
        # Time in which it would look whether the server is there.
        await asyncio.sleep(0.5)
        await plane.start()
        await connected(plane, agent)
        last = plane.dispatch("step-2", args=script("echo cleaned up"))
        await plane.until(lambda: last.end)
        plane.send(agent_pb2.ConnectResponse(released_job_ids=["job-1"]))
        assert (await agent.ended())[0] == 0
    assert last.statuses == ["RUNNING", "SUCCESS"]


async def test_a_drain_that_takes_too_long_cancels(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work", "--drain-timeout", "0.1") as agent:
        step = plane.dispatch("step-1", args=script("exec sleep 1000"))
        await plane.until(lambda: step.is_running)
        agent.signal(signal.SIGTERM)
        code, errors = await agent.ended()
    assert code == 0, errors
    assert step.statuses == ["RUNNING", "CANCELLED"]


async def test_a_second_signal_kills_at_once(plane: FakeControlPlane, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    async with running_agent(plane, tmp_path / "work") as agent:
        plane.dispatch("step-1", args=script("trap '' TERM", f"echo $$ > {gate.path}", "sleep 1000"))
        pid = int(await gate.passed())
        agent.signal(signal.SIGTERM)
        await plane.heartbeat(lambda beat: beat.draining)
        agent.signal(signal.SIGTERM)
        code, _ = await agent.ended()
    assert code == 1
    assert not is_alive(pid)


async def test_an_agent_joins_once(plane: FakeControlPlane, tmp_path: Path) -> None:
    work_dir = tmp_path / "work"
    async with running_agent(plane, work_dir) as agent:
        agent.signal(signal.SIGTERM)
        assert (await agent.ended())[0] == 0
    credential = work_dir / "agent.json"
    assert json.loads(credential.read_text()) == {"agent_id": AGENT_ID, "token": plane.tokens[AGENT_ID]}
    assert credential.stat().st_mode & 0o777 == 0o600
    async with running_agent(plane, work_dir):
        pass
    assert [request.agent_id for request in plane.registrations] == ["", AGENT_ID]
    assert plane.registrations[1].registration_token == ""


async def test_an_agent_the_server_does_not_know_any_more_joins_anew(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work"):
        pass
    plane.tokens.clear()
    plane.heartbeats.clear()
    async with running_agent(plane, tmp_path / "work"):
        pass
    assert [bool(request.agent_id) for request in plane.registrations] == [False, True, False]


async def test_an_agent_waits_for_a_server_that_comes_later(plane: FakeControlPlane, tmp_path: Path) -> None:
    await plane.stop()
    agent = AgentProcess(plane, tmp_path / "work")
    await agent.start()
    try:
        await plane.start()
        await plane.until(lambda: plane.heartbeats)
        step = plane.dispatch("step-1", args=script("true"))
        await plane.until(lambda: step.end)
    finally:
        await agent.end()
    assert step.statuses == ["RUNNING", "SUCCESS"]


@pytest.mark.parametrize("token", ["wrong", ""])
async def test_an_agent_that_may_not_join_says_so(plane: FakeControlPlane, tmp_path: Path, token: str) -> None:
    agent = AgentProcess(plane, tmp_path / "work", token=token)
    await agent.start()
    code, errors = await agent.ended()
    assert code == 1
    assert "registration" in errors.splitlines()[-1]


async def test_one_agent_a_work_directory(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work"):
        second = AgentProcess(plane, tmp_path / "work")
        await second.start()
        code, errors = await second.ended()
    assert code == 1
    assert "another agent runs on" in errors


async def test_what_belongs_to_no_step_is_gone_after_the_next_start(plane: FakeControlPlane, tmp_path: Path) -> None:
    """As an agent of an earlier version leaves it, which kept logs and workspaces and forgot whose they were."""
    work_dir, ready, never = tmp_path / "work", Gate(tmp_path / "ready"), Gate(tmp_path / "never")
    for name in ("workspaces/job-9", "scratch/step-9", "logs", "trash/workspace-1", "steps/step-9"):
        (work_dir / name).mkdir(parents=True)
    (work_dir / "logs" / "step-9.log").write_text("not known to anybody\n")
    env = {"PATH": os.environ["PATH"], "ARCENTRA_WORKSPACE": f"{work_dir}/workspaces/job-9"}
    stray = await asyncio.create_subprocess_exec(
        "sh", "-c", f"echo > {ready.path}; read line < {never.path}", env=env, start_new_session=True
    )
    await ready.passed()
    async with running_agent(plane, work_dir):
        assert await stray.wait() == -signal.SIGKILL
        assert list(plane.heartbeats[0].running_step_run_ids) == []
        assert list(plane.heartbeats[0].workspace_job_ids) == []
        # Put aside before it connects, and deleted after that.
        await plane.heartbeat(lambda _: not list((work_dir / "trash").iterdir()))
    for name in ("workspaces", "scratch", "logs", "trash", "steps"):
        assert not list((work_dir / name).iterdir()), name


async def test_a_step_that_logs_more_than_the_agent_may_keep_fails(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work", "--spool-limit", "256KiB"):
        step = plane.dispatch("step-1", args=script("yes | head -c 50000000"))
        await plane.until(lambda: step.end)
        # What is told and forgotten takes no room any more.
        later = plane.dispatch("step-2", args=script("head -c 100000 /dev/zero"))
        await plane.until(lambda: later.end)
    assert (end_of(step).failure_reason, end_of(step).exit_code) == ("disk_full", 1)
    assert "--spool-limit of 262144 bytes" in end_of(step).error_message
    assert end_of(step).log_size == len(step.log) < 2 << 20
    assert later.statuses == ["RUNNING", "SUCCESS"]
