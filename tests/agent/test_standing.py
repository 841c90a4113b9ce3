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
    return _token_of(work_dir / "agent.json")


def _token_of(file: Path) -> str:
    return str(json.loads(file.read_text())["token"])


def _in_the_way_of_the_credential(work_dir: Path) -> Path:
    """Put a directory where the credential is; return where it is now."""
    stored = work_dir / "agent.json"
    aside = stored.rename(work_dir / "aside.json")
    stored.mkdir()
    return aside


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
        stored = _in_the_way_of_the_credential(agent.work_dir)
        before = _token_of(stored)
        plane.send(_settings(rotate_credential=True))
        await plane.heartbeat(lambda _: plane.rotations and "credential_not_stored" in agent.errors)
        await agent.kill()
        assert before != plane.tokens[AGENT_ID]
        (agent.work_dir / "agent.json").rmdir()
        stored.rename(agent.work_dir / "agent.json")
        await agent.start_again()
        assert plane.registrations[-1].agent_id == AGENT_ID
        plane.send(_settings(rotate_credential=True))
        await plane.until(lambda: plane.rotations == 2)
        seen = len(plane.sequences)
        await plane.until(lambda: len(plane.sequences) > seen and plane.sequences[-1])
        assert _token(agent.work_dir) == plane.tokens[AGENT_ID]


async def test_a_new_credential_that_cannot_be_stored_is_used_and_stored_later(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with running_agent(plane, tmp_path / "work") as agent:
        _in_the_way_of_the_credential(agent.work_dir)
        plane.send(_settings(rotate_credential=True))
        await plane.heartbeat(lambda _: plane.rotations and "credential_not_stored" in agent.errors)
        # The old one has run out, and the stream over which the new one was asked for is gone.
        plane.retired.clear()
        await plane.stop()
        await plane.start()
        await plane.until(lambda: plane.is_connected)
        step = plane.dispatch("step-1", args=script("echo there"))
        await plane.until(lambda: step.end)
        (agent.work_dir / "agent.json").rmdir()
        await plane.heartbeat(lambda _: (agent.work_dir / "agent.json").exists())
        assert _token(agent.work_dir) == plane.tokens[AGENT_ID]
    assert plane.rotations == 1
    assert len(plane.registrations) == 1


async def test_a_new_credential_is_not_asked_for_without_room_for_it(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work") as agent:
        (agent.work_dir / "agent.json.new").mkdir()
        plane.send(_settings(rotate_credential=True))
        await plane.heartbeat(lambda _: "credential_not_rotated" in agent.errors)
        assert plane.rotations == 0
        (agent.work_dir / "agent.json.new").rmdir()
        await plane.until(lambda: len(plane.sequences) == 2 and plane.sequences[1])
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
