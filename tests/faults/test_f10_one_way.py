"""F10: agents hear nothing, or are not heard, while the other way is open: no step is started on nobody's word."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.field import Field
from tests.faults.sizes import SCALE, Size
from tests.faults.workload import Workload
from tests.support.tcp_proxy import tcp_proxy

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(3_600)]
SECONDS = 120.0 * SCALE  # agents give up after a lease; the server after one more, or two when it spares them


@pytest.mark.parametrize("deaf", [True, False], ids=["agents hear nothing", "agents are not heard"])
async def test_one_way(field: Field, size: Size, *, deaf: bool) -> None:
    await field.serve()
    work = Workload(field)
    await work.prepare()
    async with tcp_proxy(field.server.grpc) as proxy:
        await field.agents(size.agents, "cut", address=proxy.address)
        for number in range(size.faults):
            # As many as there are places, so that those who are cut off have some.
            running = [await work.trigger("lasting") for _ in range(2 * size.agents * (1 + bool(number)))]
            await work.busy("cut", size.agents // 2)
            (proxy.down if deaf else proxy.up).hold()
            # These are leased to agents that hear nothing of it, or whose answer does not come.
            silent = await work.feed(12, "patient")
            if not number:
                await field.agents(size.agents, "whole")
            await asyncio.sleep(SECONDS)
            proxy.heal()
            await work.ended(*running, *silent)
        seen = await field.check()
    assert {row["status"] for row in seen.rows["pipeline_runs"]} == {"SUCCESS"}
    assert any(row["end_reason"] in ("lost", "FAILED") for row in seen.rows["leases"]), "no lease was lost: no fault"
