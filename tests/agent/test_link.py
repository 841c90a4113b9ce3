"""Who the agent is on its connection, when several things happen to its credential at once."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from arcentra_agent.admission import Admission
from arcentra_agent.channel import open_channel
from arcentra_agent.config import AgentConfig
from arcentra_agent.contact import Contact
from arcentra_agent.credentials import load_credential
from arcentra_agent.link import Link
from arcentra_agent.load import Load
from arcentra_agent.steps import StepBoard
from arcentra_api.agent.v1 import agent_pb2
from tests.support.fake_control_plane import AGENT_ID, REGISTRATION_TOKEN, Ctx, FakeControlPlane

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


class _SlowPlane(FakeControlPlane):
    """Answers a registration when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_register = asyncio.Event()
        self.may_register.set()

    async def Register(  # noqa: N802 - gRPC names the method
        self, request: agent_pb2.RegisterRequest, context: Ctx
    ) -> agent_pb2.RegisterResponse:
        answer = await super().Register(request, context)
        await self.may_register.wait()
        return answer


@asynccontextmanager
async def _link(tmp_path: Path) -> AsyncIterator[tuple[_SlowPlane, Link]]:
    plane = _SlowPlane()
    await plane.start()
    config = AgentConfig(plane.address, tmp_path, "a", 1, {}, registration_token=REGISTRATION_TOKEN)
    try:
        async with open_channel(config) as channel:
            yield plane, Link(config, channel, tmp_path / "agent.json")
    finally:
        await plane.stop()


async def test_an_agent_joins_with_the_credential_that_it_is_about_to_get(tmp_path: Path) -> None:
    async with _link(tmp_path) as (plane, link):
        await link.ensure_joined()
        link.distrust()
        async with asyncio.TaskGroup() as tasks:
            rotating = tasks.create_task(link.rotate_credential())
            await asyncio.sleep(0)
            plane.may_register.clear()
            tasks.create_task(link.ensure_joined())
            await rotating
            plane.may_register.set()
        assert link.membership.credential.token == plane.tokens[AGENT_ID]
        assert load_credential(link.credential_file) == link.membership.credential


async def test_one_at_a_time_writes_the_credential(tmp_path: Path) -> None:
    async with _link(tmp_path) as (plane, link):
        await _waits_for_the_lock(link, link.ensure_joined())
        assert load_credential(link.credential_file) == link.membership.credential
        await _waits_for_the_lock(link, link.rotate_credential())
        assert load_credential(link.credential_file) == link.membership.credential
        assert plane.rotations == 1


async def _waits_for_the_lock(link: Link, writing: Coroutine[Any, Any, None]) -> None:
    """See that something which writes the file does nothing to it while another has the lock."""
    folder = link.credential_file.parent
    async with asyncio.TaskGroup() as tasks:
        with link._storing:
            before = [(file.name, file.stat().st_mtime_ns) for file in folder.iterdir()]
            task = tasks.create_task(writing)
            await asyncio.sleep(0.5)
            assert [(file.name, file.stat().st_mtime_ns) for file in folder.iterdir()] == before
            assert not task.done()


async def test_a_new_agent_has_nothing_left_to_store_of_the_one_before(tmp_path: Path) -> None:
    async with _link(tmp_path) as (plane, link):
        await link.ensure_joined()
        draft = tmp_path / "agent.json.new"
        (stored := link.credential_file).unlink()
        stored.mkdir()
        await link.rotate_credential()
        stored.rmdir()
        plane.tokens.clear()
        plane.retired.clear()
        link.distrust()
        await link.ensure_joined()
        assert link._stored()
        assert not draft.exists()
        credential = load_credential(stored)
        assert credential == link.membership.credential
        assert link.membership.credential.token == plane.tokens[AGENT_ID]


async def test_an_agent_that_waits_goes_on_without_a_new_credential(tmp_path: Path) -> None:
    """Whatever is in the way of it, such as threads that cannot be had; here it is that the agent has not joined."""
    async with _link(tmp_path) as (plane, link):
        board = StepBoard.__new__(StepBoard)
        await Admission(link, board, Contact(), Load(tmp_path, tmp_path))._rotate()
        assert plane.rotations == 0
