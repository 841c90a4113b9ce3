"""F9: all agents are cut off from the server for a while, without a word. The times of CI are a tenth of the real ones.

For less than 25 s nobody is taken for lost; for longer, steps are lost and run again, and never two at a time.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.field import Field
from tests.faults.sizes import SCALE, Size
from tests.faults.workload import Workload
from tests.support.tcp_proxy import tcp_proxy

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(3_600)]
SHORT = 21.0 * SCALE
LOST = "SELECT count(*) FROM step_runs WHERE status = 'FAILED'"


async def test_agents_that_are_cut_off(field: Field, size: Size) -> None:
    await field.serve()
    work = Workload(field)
    await work.prepare()
    async with tcp_proxy(field.server.grpc) as proxy:
        await field.agents(size.agents, address=proxy.address, options=("--slots", "1"))
        for seconds in size.times:
            before = await field.value(LOST)
            running = [await work.trigger("lasting") for _ in range(size.agents)]
            await work.running(running[-1])
            proxy.hold()
            more = await work.feed(12, "patient")
            await asyncio.sleep(seconds)
            proxy.heal()
            await work.ended(*running, *more)
            if seconds < SHORT:
                assert await field.value(LOST) == before, f"agents were taken for lost after {seconds} s"
        seen = await field.check()
    assert {row["status"] for row in seen.rows["pipeline_runs"]} == {"SUCCESS"}
