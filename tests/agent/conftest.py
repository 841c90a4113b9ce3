"""Fixtures of the agent's tests."""

from collections.abc import AsyncIterator

import pytest

from tests.support.fake_control_plane import FakeControlPlane


@pytest.fixture
async def plane() -> AsyncIterator[FakeControlPlane]:
    """A control plane that listens, without agents."""
    plane = FakeControlPlane()
    await plane.start()
    yield plane
    await plane.stop()
