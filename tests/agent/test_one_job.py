"""An agent that takes one job, and the health page of any."""

import asyncio
import http.client
import json
import re
import signal
import socket
from pathlib import Path
from typing import cast

import pytest

from arcentra_agent.contact import Contact
from arcentra_agent.health import Health
from arcentra_agent.one_job import OneJob
from arcentra_agent.step_host.lease import Lease
from arcentra_agent.steps import StepBoard
from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from tests.agent.processes import AgentProcess, running_agent, script
from tests.support.fake_control_plane import FakeControlPlane

pytestmark = pytest.mark.timeout(60)

_RELEASED = agent_pb2.ConnectResponse(released_job_ids=["job-1"])


def _report(step_run_id: str, *, well: bool, lease: str = "lease") -> agent_pb2.TaskStatus:
    status = steprun_pb2.STEP_RUN_STATUS_SUCCESS if well else steprun_pb2.STEP_RUN_STATUS_FAILED
    return agent_pb2.TaskStatus(step_run_id=step_run_id, status=status, lease_token=lease)


def _step(step_run_id: str, place: int, *, may_fail: bool = False, job_id: str = "job-1") -> agent_pb2.StepRun:
    return agent_pb2.StepRun(
        step_run_id=step_run_id, job_id=job_id, step_index=place, continue_on_error=may_fail, lease_token="lease"
    )


@pytest.mark.parametrize(
    ("steps", "ends", "went_well"),
    [
        ([_step("a", 0), _step("b", 1)], {"a": True, "b": True}, True),
        ([_step("a", 0), _step("b", 1)], {"a": True, "b": False}, False),
        ([_step("a", 0, may_fail=True), _step("b", 1)], {"a": False, "b": True}, True),
        ([_step("a", 0), _step("again", 0)], {"a": False, "again": True}, True),
        ([_step("a", 0), _step("again", 0)], {"a": True, "again": False}, False),
        ([_step("a", 0)], {}, False),
        ([], {"adopted": True}, True),
        ([], {"adopted": False}, False),
    ],
)
@pytest.mark.parametrize("is_restarted", [False, True])
def test_how_a_job_went(
    tmp_path: Path, steps: list[agent_pb2.StepRun], ends: dict[str, bool], *, went_well: bool, is_restarted: bool
) -> None:
    over: list[bool] = []
    job = OneJob(lambda: over.append(True), tmp_path / "job", [] if steps else ["job-1"])
    assert all(job.takes(step) for step in steps)
    for step_run_id, well in ends.items():
        job.committed(_report(step_run_id, well=well))
        if is_restarted:
            job = OneJob(lambda: over.append(True), tmp_path / "job", ["job-0", "job-1"])
            assert job.is_taken
            assert not job.takes(_step("other", 0, job_id="job-2"))
    assert not job.went_well
    job.released(["job-2"])
    assert not over
    job.released(["job-1"])
    assert over
    assert job.went_well == went_well
    # Also for the next process, when this one ends before it has told.
    again = OneJob(lambda: over.append(True), tmp_path / "job")
    assert (len(over), again.went_well) == (2, went_well)
    again.forget()
    assert not OneJob(lambda: over.append(True), tmp_path / "job").is_taken


def test_a_job_whose_workspace_is_gone_is_not_gone_on_with(tmp_path: Path) -> None:
    OneJob(lambda: None, tmp_path / "job").takes(_step("a", 0))
    assert OneJob(lambda: None, tmp_path / "job", ["job-1"]).is_taken
    assert not OneJob(lambda: None, tmp_path / "job").is_taken


@pytest.mark.parametrize("content", ["", "{", "[]", '{"job_id": "job-1", "is_over": false, "steps": [1]}'])
def test_a_job_that_cannot_be_read_is_known_by_its_workspace(tmp_path: Path, content: str) -> None:
    (tmp_path / "job").write_text(content)
    job = OneJob(lambda: None, tmp_path / "job", ["job-1"])
    assert job.takes(_step("a", 0))
    assert not job.takes(_step("b", 0, job_id="job-2"))


def test_a_job_that_is_taken_away_is_over(tmp_path: Path) -> None:
    over: list[bool] = []
    job = OneJob(lambda: over.append(True), tmp_path / "job")
    job.takes(_step("a", 0))
    job.refused(_report("a", well=True, lease="an older lease"))
    assert not over
    job.refused(_report("a", well=True))
    assert over
    assert not job.went_well


def test_a_second_job_is_not_taken(tmp_path: Path) -> None:
    job = OneJob(lambda: None, tmp_path / "job")
    assert not job.is_taken
    assert job.takes(_step("a", 0))
    assert job.is_taken
    assert not job.takes(_step("b", 0, job_id="job-2"))


@pytest.mark.slow
@pytest.mark.parametrize(("last", "code"), [("true", 0), ("exit 3", 1)])
async def test_an_agent_for_one_job_takes_all_its_steps_and_leaves(
    plane: FakeControlPlane, tmp_path: Path, last: str, code: int
) -> None:
    async with running_agent(plane, tmp_path / "work", "--once", "--capacity", "1") as agent:
        first = plane.dispatch("step-1", args=script("touch made"), step_index=0)
        await plane.heartbeat(lambda beat: beat.draining)
        await plane.until(lambda: first.end)
        other = plane.dispatch("step-9", args=script("true"), job_id="job-2")
        await plane.until(lambda: other.acks)
        second = plane.dispatch("step-2", args=script("test -e made", last), step_index=1)
        await plane.until(lambda: second.end)
        plane.send(_RELEASED)
        ended, errors = await agent.ended()
    assert ended == code, errors
    assert other.acks[0].status == agent_pb2.ACK_STATUS_FAILED
    assert other.reports == []
    assert plane.departures == ["its one job is over"]
    assert not (agent.work_dir / "agent.json").exists()
    assert not list((agent.work_dir / "workspaces").iterdir())


@pytest.mark.slow
async def test_an_agent_for_one_job_that_was_known_before_stays_known(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work") as agent:
        agent.signal(signal.SIGTERM)
        assert (await agent.ended())[0] == 0
    async with running_agent(plane, tmp_path / "work", "--once") as agent:
        step = plane.dispatch("step-1", args=script("true"))
        await plane.until(lambda: step.end)
        plane.send(_RELEASED)
        assert (await agent.ended())[0] == 0
    assert plane.departures == []
    assert (agent.work_dir / "agent.json").exists()


@pytest.mark.slow
async def test_an_agent_for_one_job_remembers_it_between_two_steps(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work", "--once") as agent:
        first = plane.dispatch("step-1", args=script("exit 3"), step_index=0)
        await plane.until(lambda: first.end)
        await plane.heartbeat(lambda beat: not beat.running_step_run_ids)
        await agent.kill()
        await agent.start_again()
        assert plane.heartbeats[0].draining
        other = plane.dispatch("step-9", args=script("true"), job_id="job-2")
        await plane.until(lambda: other.acks)
        assert other.acks[0].status == agent_pb2.ACK_STATUS_FAILED
        second = plane.dispatch("step-2", args=script("true"), step_index=1)
        await plane.until(lambda: second.end)
        plane.send(_RELEASED)
        # The first step failed, of which this process has seen nothing.
        assert (await agent.ended())[0] == 1
        assert not (agent.work_dir / "one-job.json").exists()
    assert second.statuses == ["RUNNING", "SUCCESS"]


@pytest.mark.slow
async def test_an_agent_for_one_job_has_room_for_one_step(plane: FakeControlPlane, tmp_path: Path) -> None:
    """Leased more, it would refuse steps of others, and have them wait."""
    async with running_agent(plane, tmp_path / "work", "--once", "--capacity", "8"):
        step = plane.dispatch("step-1", args=script("exec sleep 1000"))
        await plane.until(lambda: step.is_running)
        await plane.heartbeat(lambda beat: beat.running_step_run_ids)
    assert {request.max_concurrent_step_runs for request in plane.registrations} == {1}
    assert {beat.max_concurrent_step_runs for beat in plane.heartbeats} == {1}


@pytest.mark.slow
async def test_an_agent_for_one_job_that_never_had_one_did_not_do_well(plane: FakeControlPlane, tmp_path: Path) -> None:
    async with running_agent(plane, tmp_path / "work", "--once") as agent:
        agent.signal(signal.SIGTERM)
        assert (await agent.ended())[0] == 1
    assert plane.departures


@pytest.mark.slow
async def test_the_health_page_tells_whether_the_agent_is_in_contact(plane: FakeControlPlane, tmp_path: Path) -> None:
    port = _free_port()
    plane.lease_ms = 3_600_000
    async with running_agent(plane, tmp_path / "work", "--health-listen", f"127.0.0.1:{port}"):
        step = plane.dispatch("step-1", args=script("echo 12345; exec sleep 1000"))
        await plane.until(lambda: step.log)
        assert await _get(port, "/healthz") == (200, {"healthy": True})
        code, status = await _get(port, "/status")
        ago = status.pop("last_contact_seconds")
        assert code == 200
        assert isinstance(ago, float)
        assert status == {
            "healthy": True,
            "connected": True,
            "waits_for": "",
            "draining": False,
            "running_step_runs": 1,
            "spool_bytes": 6,
        }
        assert (await _get(port, "/"))[0] == 404
        assert (await _get(port, "/healthz", "POST"))[0] == 405
        await plane.stop()
        while (answer := await _get(port, "/healthz"))[0] == 200:
            pass
        assert answer == (503, {"healthy": False})


def test_an_agent_that_hears_nothing_for_a_lease_is_not_well(tmp_path: Path) -> None:
    contact, lease = Contact(is_connected=True), Lease()
    health = Health(cast("StepBoard", None), contact, lease, tmp_path)
    assert not health.is_well
    contact.note()
    assert health.is_well
    lease.duration = 0.0
    assert not health.is_well
    lease.duration = 30.0
    contact.is_connected = False
    assert not health.is_well
    contact.waits_for = "approval"
    assert health.is_well


@pytest.mark.slow
async def test_a_health_page_that_cannot_be_served_is_said(plane: FakeControlPlane, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        agent = AgentProcess(plane, tmp_path / "work", "--health-listen", f"127.0.0.1:{port}")
        await agent.start()
        code, errors = await agent.ended()
    assert code == 1
    assert re.search(rf"--health-listen.*{port}.*in use", errors)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _get(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, object]]:
    def ask() -> tuple[int, dict[str, object]]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    return await asyncio.to_thread(ask)
