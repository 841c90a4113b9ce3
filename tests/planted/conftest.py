"""A place for each planted bug."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.field import Field
from tests.planted.patches import copy_of_the_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what a server runs from."""
    return copy_of_the_tree(tmp_path / "tree")


@pytest.fixture
async def field(dsn: str, tmp_path: Path, tree: Path) -> AsyncIterator[Field]:
    """An installation on an empty database of its own, whose server is to run from the copy."""
    async with Field.on(tmp_path / "field", dsn, seed=1) as field:
        field.source = tree / "src"
        yield field
