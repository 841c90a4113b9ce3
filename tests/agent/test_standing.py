"""What operators and the server want of an agent: approval, settings, a new credential, other labels."""

import json
import signal
from pathlib import Path

import pytest

from arcentra_api.agent.v1 import agent_pb2
from tests.agent.processes import AgentProcess, running_agent, script
from tests.support.fake_control_plane import AGENT_ID, DISABLED, HEARTBEAT_MS, PENDING, FakeControlPlane

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


def _settings(**fields: object) -> agent_pb2.ConnectResponse:
    settings = agent_pb2.AgentSettings(heartbeat_interval=HEARTBEAT_MS, lease_duration=30_000, **fields)  # type: ignore[arg-type]
    return agent_pb2.ConnectResponse(settings=settings)


def _token(work_dir: Path) -> str:
    return str(json.loads((work_dir / "agent.json").read_text())["token"])


@pytest.mark.parametrize(("refusal", "command"), [(PENDING, "approve"), (DISABLED, "enable")])
async def test_an_agent_that_may_not_work_yet_waits_and_then_goes_on(
    plane: FakeControlPlane, tmp_path: Path, refusal: str, command: str
) -> None:
    plane.refusal = refusal
    agent = AgentProcess(plane, tmp_path / "work")
    await agent.start()
    try:
        await plane.until(lambda: plane.beats_without_stream)
        # More than one when a refusal crossed a message of the agent and its reason was lost.
        refused, seen = plane.refused_streams, len(plane.beats_without_stream)
        await plane.until(lambda: len(plane.beats_without_stream) >= seen + 3)
        assert plane.refused_streams == refused
        assert len(plane.registrations) <= 2
        assert agent.errors.count(f"arcentra agent {command} {AGENT_ID}") == 1
        plane.refusal = ""
        await plane.until(lambda: plane.is_connected and plane.heartbeats)
        step = plane.dispatch("step-1", args=script("true"))
        await plane.until(lambda: step.end)
    finally:
        await agent.end()
    assert step.statuses == ["RUNNING", "SUCCESS"]
    assert "disconnected" not in agent.errors


async def test_an_agent_that_waits_ends_when_it_is_told_to(plane: FakeControlPlane, tmp_path: Path) -> None:
    plane.refusal = PENDING
    agent = AgentProcess(plane, tmp_path / "work")
    await agent.start()
    try:
        await plane.until(lambda: plane.beats_without_stream)
        agent.signal(signal.SIGTERM)
        code, _ = await agent.ended()
    finally:
        await agent.end()
    assert code == 0


async def test_a_credential_is_rotated_when_the_server_asks(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work") as agent:
        before = _token(agent.work_dir)
        plane.send(_settings(rotate_credential=True))
        await plane.until(lambda: len(plane.sequences) == 2 and plane.sequences[1])
        after = _token(agent.work_dir)
        assert before != after == plane.tokens[AGENT_ID]
        # From here on only the new one counts.
        plane.retired.clear()
        step = plane.dispatch("step-1", args=script("echo there"))
        await plane.until(lambda: step.end)
    assert plane.rotations == 1
    assert bytes(step.log) == b"there\n"
    assert len(plane.registrations) == 1


async def test_a_credential_is_rotated_when_half_its_life_is_over(plane: FakeControlPlane, tmp_path: Path) -> None:
    plane.token_life = 6.0
    async with running_agent(plane, tmp_path / "work") as agent:
        before = _token(agent.work_dir)
        plane.token_life = 0.0
        await plane.until(lambda: len(plane.sequences) == 2 and plane.sequences[1])
        assert before != _token(agent.work_dir) == plane.tokens[AGENT_ID]


async def test_an_agent_that_ended_before_it_kept_its_new_credential_comes_back_with_the_old(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with running_agent(plane, tmp_path / "work") as agent:
        # In the way of the file that the new one is written to.
        (agent.work_dir / "agent.json.new").mkdir()
        before = _token(agent.work_dir)
        plane.send(_settings(rotate_credential=True))
        # It goes on with the old one, and tries again.
        await plane.heartbeat(lambda _: plane.rotations and "credential_not_stored" in agent.errors)
        await plane.heartbeat(lambda _: True)
        await agent.kill()
        assert _token(agent.work_dir) == before != plane.tokens[AGENT_ID]
        (agent.work_dir / "agent.json.new").rmdir()
        await agent.start_again()
        assert plane.registrations[-1].agent_id == AGENT_ID
        plane.send(_settings(rotate_credential=True))
        await plane.until(lambda: plane.rotations == 2)
        await plane.until(lambda: len(plane.sequences) == 3 and plane.sequences[2])
        assert _token(agent.work_dir) == plane.tokens[AGENT_ID]


async def test_settings_are_in_force_at_once(plane: FakeControlPlane, tmp_path: Path) -> None:
    plane.heartbeat_ms = 3_600_000
    async with running_agent(plane, tmp_path / "work") as agent:
        plane.send(_settings(drain=True, drain_reason="disk to be replaced"))
        seen = len(plane.heartbeats)
        plane.send(_settings())
        await plane.until(lambda: len(plane.heartbeats) > seen + 3)
        logged = agent.errors
    assert "disk to be replaced" in logged
    assert "drained_by_the_server" in logged
    assert "resumed_by_the_server" in logged


async def test_heartbeats_tell_the_load_of_the_host_and_of_the_steps(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work") as agent:
        step = plane.dispatch("step-1", args=script("while :; do :; done"))
        await plane.until(lambda: step.is_running)
        await plane.heartbeat(
            lambda beat: (
                beat.metrics["running_step_runs"] == "1"
                and float(beat.metrics.get("steps_cpu_usage", 0)) > 1
                and float(beat.metrics["steps_memory_usage"]) > 0
            )
        )
        metrics = plane.heartbeats[-1].metrics
        assert float(metrics["cpu_usage"]) > 0
        assert all(0 <= float(metrics[f"{part}_usage"]) <= 100 for part in ("cpu", "memory", "disk"))
        agent.signal(signal.SIGTERM)
        await plane.heartbeat(lambda beat: beat.draining)
        agent.signal(signal.SIGTERM)
        await agent.ended()


async def test_labels_are_read_again_on_a_hangup(plane: FakeControlPlane, tmp_path: Path) -> None:
    file = tmp_path / "labels"
    file.write_text("# of this host\ngpu=none\n")
    async with running_agent(plane, tmp_path / "work", "--labels", "zone=a,gpu=x", "--labels-file", str(file)) as agent:
        assert plane.labels == {"zone": "a", "gpu": "none"}
        file.write_text("not a label\n")
        agent.signal(signal.SIGHUP)
        await plane.heartbeat(lambda _: "labels_not_read" in agent.errors)
        file.write_text("!gpu=nvidia\n")
        agent.signal(signal.SIGHUP)
        await plane.until(lambda: "!gpu" in plane.labels)
        assert {"zone": "a", "gpu": "x", "!gpu": "nvidia"}.items() <= plane.labels.items()
        assert {"os", "arch"} <= set(plane.labels)
        # Also when it registers the next time.
        plane.tokens.clear()
        await plane.stop()
        await plane.start()
        await plane.until(lambda: len(plane.registrations) > 1 and plane.registrations[-1].labels.get("!gpu"))
