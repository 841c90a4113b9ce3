"""F9: all agents are cut off from the server for a while, without a word. The times of CI are a tenth of the real ones.

For less than a lease time nobody is taken for lost; for longer, steps are lost and run again, and never two at a time.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.field import Field
from tests.faults.silence import Silence
from tests.faults.sizes import SCALE, Size, hang_guard
from tests.faults.workload import SETTLED, Workload
from tests.support.tcp_proxy import tcp_proxy

pytestmark = [pytest.mark.slow, pytest.mark.faults, hang_guard()]
LONG = 65.0 * SCALE  # all agents are spared once


async def test_agents_that_are_cut_off(field: Field, size: Size) -> None:
    field.heartbeat = 5.0 * SCALE
    await field.serve()
    work = Workload(field)
    await work.prepare()
    async with tcp_proxy(field.server.grpc) as proxy:
        await field.agents(size.agents, address=proxy.address, options=("--slots", "1"))
        for seconds in size.times:
            runs = [await work.trigger("lasting") for _ in range(size.agents)]
            runs += await work.strike("sim", size.agents // 2, proxy.hold, proxy.heal)
            silence = await Silence.of(field, "sim")
            async with asyncio.TaskGroup() as group:
                more = group.create_task(work.feed(12, "patient"))
                await asyncio.sleep(seconds - SETTLED)
            if seconds > LONG:
                await silence.costs_steps()
            await silence.end(proxy.heal)
            await work.ended(*runs, *more.result())
        seen = await field.check()
    assert {row["status"] for row in seen.rows["pipeline_runs"]} == {"SUCCESS"}
