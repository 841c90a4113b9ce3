"""F3: a fifth of the agents are killed with all that runs on them: their steps fail as lost, and are run by others."""

from __future__ import annotations

import pytest

from tests.faults.field import Field
from tests.faults.sizes import Size, hang_guard
from tests.faults.workload import Workload

pytestmark = [pytest.mark.slow, pytest.mark.faults, hang_guard()]
FLEETS = 5
STEPS = ("--step-seconds", "0.1", "0.6")


async def test_steps_of_killed_agents_are_run_by_others(field: Field, size: Size) -> None:
    await field.serve()
    work = Workload(field)
    await work.prepare()
    share = size.agents // FLEETS
    fleets = [await field.agents(share, f"sim-{n}", pulling=share // 4, options=STEPS) for n in range(FLEETS)]
    for _ in range(size.faults):
        await work.feed(size.steps // size.faults, "patient", "keyed", "patient")
        victim = field.chance.randrange(FLEETS)
        # Stopped first: what ran on them then was not over as they died.
        await work.strike(fleets[victim].name, 1, fleets[victim].freeze, fleets[victim].thaw)
        await fleets[victim].kill()
        await work.feed(20, "patient")
        fleets[victim] = await field.agents(share, fleets[victim].name, pulling=share // 4, options=STEPS)
    seen = await field.check()
    assert {row["status"] for row in seen.rows["pipeline_runs"]} == {"SUCCESS"}
    lost = [row for row in seen.rows["step_runs"] if row["status"] == "FAILED"]
    assert lost, "nobody died at work: the fault was none"
