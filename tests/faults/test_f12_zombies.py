"""F12: agents are stopped in the middle of their work and go on later: what they report then changes nothing.

The times of CI are a tenth of the real ones.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.field import Field
from tests.faults.sizes import SCALE, Size
from tests.faults.workload import Workload

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(3_600)]
SHORT, LONG = 21.0 * SCALE, 45.0 * SCALE
LOST = "SELECT count(*) FROM step_runs WHERE status = 'FAILED'"


async def test_stopped_agents_change_nothing_later(field: Field, size: Size) -> None:
    await field.serve()
    work = Workload(field)
    await work.prepare()
    zombies = await field.agents(size.agents, "zombie", options=("--slots", "1"))
    await field.agents(size.agents, "alive")
    for seconds in size.times:
        before = await field.value(LOST)
        # As many as there are places, so that each of those who are stopped has one.
        running = [await work.trigger("lasting") for _ in range(3 * size.agents)]
        await work.busy("zombie", size.agents // 2)
        zombies.freeze()
        await asyncio.sleep(seconds)
        zombies.thaw()
        await work.ended(*running)
        if seconds < SHORT:
            assert await field.value(LOST) == before, f"agents were taken for lost after {seconds} s"
        if seconds > LONG:
            assert await field.value(LOST) != before, "nobody was taken for lost: the fault was none"
    seen = await field.check()
    late = [line for name, line in seen.lines("verdict") if name.startswith("zombie") and not line["accepted"]]
    assert {line["reason"] for line in late} <= {"LEASE_LOST", "INVALID_TRANSITION", "told"}
