"""F6: sessions of the server at its database are ended at random: callers that try again notice nothing."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.field import SAFE_LEASE, Field
from tests.faults.sizes import Size, hang_guard
from tests.faults.workload import Workload

pytestmark = [pytest.mark.slow, pytest.mark.faults, hang_guard()]
# Not the sessions of this test, which has a pool of its own.
VICTIMS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND NOT pid = ANY($1) AND random() < $2 LIMIT 1
"""
OWN = "SELECT array_agg(pid) FROM pg_stat_activity WHERE datname = current_database()"


async def test_ended_sessions_cost_no_step(field: Field, size: Size) -> None:
    field.lease = SAFE_LEASE
    own = await field.value(OWN)
    await field.serve()
    work = Workload(field)
    await work.prepare()
    await field.agents(size.agents, pulling=size.agents // 5)
    ended = 0

    async def end_sessions() -> None:
        nonlocal ended
        while ended < size.faults:
            await asyncio.sleep(1 / size.rate)
            ended += bool(await field.value(VICTIMS, own, 0.3))

    async with asyncio.TaskGroup() as group:
        ending = group.create_task(end_sessions())
        while not ending.done():
            await work.feed(20, "plain", "keyed", pause=0.1)
    seen = await field.check()
    assert {row["status"] for row in seen.rows["pipeline_runs"]} == {"SUCCESS"}
    assert {call.refused for call in field.history.calls} == {""}
