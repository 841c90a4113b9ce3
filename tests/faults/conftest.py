"""A place for each test of faults, and the numbers of its row: the short form of CI, or the long one of `make chaos`."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.field import Field
from tests.faults.sizes import LONG, SIZES, Size


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What chance is drawn from; `SEED=` in the environment replays a run."""
    number = int(os.environ.get("SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"replay: make chaos {'' if LONG else 'LONG=0 '}ARGS='{request.node.nodeid}' SEED={number}")  # noqa: T201
    return number


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Size:
    """The numbers of the row that the module of the test is named for."""
    row = request.module.__name__.rpartition("test_")[2].partition("_")[0].upper()
    return SIZES[row][LONG]


@pytest.fixture
async def field(dsn: str, tmp_path: Path, seed: int) -> AsyncIterator[Field]:
    """An installation on an empty database of its own, with nothing running yet."""
    async with Field.on(tmp_path / "field", dsn, seed) as field:
        yield field
