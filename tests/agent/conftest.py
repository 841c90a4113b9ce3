"""Fixtures of the agent's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.agent.stage import Stage
from tests.support.fake_control_plane import FakeControlPlane


@pytest.fixture
async def plane() -> AsyncIterator[FakeControlPlane]:
    """A control plane that listens, without agents."""
    plane = FakeControlPlane()
    await plane.start()
    yield plane
    await plane.stop()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """A workspace and a log to run plugins in, without an agent."""
    return Stage(tmp_path)
