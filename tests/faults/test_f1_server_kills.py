"""F1: the server is killed at random instants, while agents work: nothing is lost, nothing fails, nothing runs twice."""

from __future__ import annotations

import pytest

from tests.faults.field import SAFE_LEASE, Field
from tests.faults.sizes import Size, hang_guard
from tests.faults.workload import Workload

pytestmark = [pytest.mark.slow, pytest.mark.faults, hang_guard()]


async def test_killed_servers_cost_no_step(field: Field, size: Size) -> None:
    field.lease = SAFE_LEASE
    await field.serve()
    work = Workload(field)
    await work.prepare()
    await field.agents(size.agents, pulling=size.agents // 5)
    for _ in range(size.faults):
        await work.feed(size.steps // size.faults, "plain", "keyed", "plain")
        await field.pause(0.0, 0.5)
        await field.server.kill()
        await field.serve()
    seen = await field.check()
    assert {row["status"] for row in seen.rows["pipeline_runs"]} == {"SUCCESS"}
    assert len(seen.processes) == len(seen.rows["step_runs"])
