"""F10: agents hear nothing, or are not heard, while the other way is open: no step is started on nobody's word."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.field import Field
from tests.faults.silence import Silence
from tests.faults.sizes import SCALE, Size, hang_guard
from tests.faults.workload import Workload
from tests.support.tcp_proxy import tcp_proxy

pytestmark = [pytest.mark.slow, pytest.mark.faults, hang_guard()]
SECONDS = 120.0 * SCALE  # agents give up after a lease; the server after one more, or two when it spares them


@pytest.mark.parametrize("deaf", [True, False], ids=["agents hear nothing", "agents are not heard"])
async def test_one_way(field: Field, size: Size, *, deaf: bool) -> None:
    await field.serve()
    work = Workload(field)
    await work.prepare()
    async with tcp_proxy(field.server.grpc) as proxy:
        await field.agents(size.agents, "cut", address=proxy.address)
        way = proxy.down if deaf else proxy.up
        for number in range(size.faults):
            # As many as there are places, so that those who are cut off have some.
            running = [await work.trigger("lasting") for _ in range(2 * size.agents * (1 + bool(number)))]
            running += await work.strike("cut", size.agents // 2, way.hold, way.release)
            silence = await Silence.of(field, "cut")
            # These are leased to agents that hear nothing of it, or whose answer does not come.
            silent = await work.feed(12, "patient")
            if not number:
                await field.agents(size.agents, "whole")
            await asyncio.sleep(SECONDS)
            await silence.costs_steps()
            await silence.end(way.release)
            await work.ended(*running, *silent)
        seen = await field.check()
    assert {row["status"] for row in seen.rows["pipeline_runs"]} == {"SUCCESS"}
