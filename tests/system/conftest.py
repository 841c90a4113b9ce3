"""One migrated data directory to copy from, since making one takes longer than most tests, and a place to run things in."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.processes import Sandbox, sandbox_of
from tests.support.server import run_program


@pytest.fixture(scope="session")
async def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with an empty, migrated database, on which no server has run."""
    data_dir = tmp_path_factory.mktemp("template") / "data"
    await run_program("arcentra-server", "migrate", "--data-dir", str(data_dir))
    return data_dir


@pytest.fixture
async def sandbox(template: Path, tmp_path: Path) -> AsyncIterator[Sandbox]:
    """A place for one test, where nothing may be left running."""
    async with sandbox_of(template, tmp_path / "sandbox") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
async def shared(template: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    """A place for all tests of a module."""
    async with sandbox_of(template, tmp_path_factory.mktemp("shared") / "sandbox") as sandbox:
        yield sandbox
