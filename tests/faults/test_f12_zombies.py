"""F12: agents are stopped in the middle of their work and go on later: what they report then changes nothing.

The times of CI are a tenth of the real ones.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.field import Field
from tests.faults.silence import Silence
from tests.faults.sizes import SCALE, Size, hang_guard
from tests.faults.workload import SETTLED, Workload

pytestmark = [pytest.mark.slow, pytest.mark.faults, hang_guard()]
LONG = 65.0 * SCALE


async def test_stopped_agents_change_nothing_later(field: Field, size: Size) -> None:
    field.heartbeat = 5.0 * SCALE
    await field.serve()
    work = Workload(field)
    await work.prepare()
    zombies = await field.agents(size.agents, "zombie", options=("--slots", "1"))
    await field.agents(size.agents, "alive")
    for seconds in size.times:
        # As many as there are places, so that each of those who are stopped has one.
        runs = [await work.trigger("lasting") for _ in range(3 * size.agents)]
        runs += await work.strike("zombie", size.agents // 2, zombies.freeze, zombies.thaw)
        silence = await Silence.of(field, "zombie")
        await asyncio.sleep(seconds - SETTLED)
        if seconds > LONG:
            await silence.costs_steps()
        await silence.end(zombies.thaw)
        await work.ended(*runs)
    seen = await field.check()
    late = [line for name, line in seen.lines("verdict") if name.startswith("zombie") and not line["accepted"]]
    assert {line["reason"] for line in late} <= {"LEASE_LOST", "INVALID_TRANSITION", "told"}
