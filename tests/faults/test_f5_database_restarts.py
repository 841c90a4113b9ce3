"""F5: PostgreSQL is shut down at once, as a power cut would, and comes back: what was acknowledged is there."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tests.faults.field import SAFE_LEASE, STARTED_WITHIN, Field
from tests.faults.sizes import Size, hang_guard
from tests.faults.workload import Workload
from tests.support.processes import database_of, postmaster, until

pytestmark = [pytest.mark.slow, pytest.mark.faults, hang_guard()]


@pytest.fixture
async def field(tmp_path: Path, seed: int) -> AsyncIterator[Field]:
    """An installation on the embedded database: the server itself brings it back."""
    async with Field.on(tmp_path / "field", "", seed) as field:
        field.lease = SAFE_LEASE
        await field.serve()
        async with database_of(field.server) as field.database:
            yield field


async def test_database_that_restarts_loses_nothing(field: Field, size: Size) -> None:
    work = Workload(field)
    await work.prepare()
    await field.agents(size.agents, pulling=size.agents // 5)
    for _ in range(size.faults):
        await work.feed(size.steps // size.faults, "plain", "keyed", "plain")
        await field.pause(0.0, 0.5)
        before = postmaster(field.server.data_dir)
        assert before is not None
        os.kill(before, signal.SIGQUIT)
        await until(partial(_is_another, field, before), within=STARTED_WITHIN)
    seen = await field.check()
    assert {row["status"] for row in seen.rows["pipeline_runs"]} == {"SUCCESS"}
    assert field.server.process.returncode is None


def _is_another(field: Field, before: int) -> bool:
    return postmaster(field.server.data_dir) not in {before, None}
