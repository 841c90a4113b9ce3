"""The example of schedules, through the nights in which clocks change, by a clock that is set."""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from arcentra_server.db import triggers
from arcentra_server.rpc.convert.document import read_pipeline
from arcentra_server.services.cron import CronService
from tests.support.clock import FakeClock
from tests.support.examples import EXAMPLES
from tests.support.world import World

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("from_utc", "wanted"),
    [
        # Clocks go forward at 2:00, so there is no 2:30: the run of that night starts at 3:00.
        ("2026-03-27T20:00:00", ["03-28 02:30 +0100", "03-29 03:00 +0200", "03-30 02:30 +0200"]),
        # Clocks go back at 3:00, so there are two 2:30: it starts once.
        ("2026-10-23T20:00:00", ["10-24 02:30 +0200", "10-25 02:30 +0200", "10-26 02:30 +0100"]),
    ],
    ids=["spring", "autumn"],
)
async def test_nightly_run_starts_once_a_night(world: World, from_utc: str, wanted: list[str]) -> None:
    clock = FakeClock(from_utc)
    spec = read_pipeline((EXAMPLES / "cron.yaml").read_text()).spec
    pipeline = await world.pipeline(spec, "cron")
    async with world.database.transaction() as tx:
        await triggers.remove(tx, pipeline)
        await triggers.replace(tx, pipeline, spec, enabled=True, now=clock.now)
    service = CronService(world.database, world.server.starter.start, clock=clock)
    fired = []
    for _ in range(60 * 24 * 3 // 15):
        before = await _nightly_runs(world)
        await service.run_once()
        if await _nightly_runs(world) > before:
            fired.append(f"{clock.now.astimezone(BERLIN):%m-%d %H:%M %z}")
        clock.now += timedelta(minutes=15)
    assert fired == wanted


async def _nightly_runs(world: World) -> int:
    return int(await world.value("SELECT count(*) FROM pipeline_runs WHERE variables ->> 'reason' = 'nightly'"))
