"""Schedules on a real database, by a clock that is set: every tick once, whatever dies in between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from arcentra_server.db import triggers
from arcentra_server.db.paging import Page
from arcentra_server.db.run_starter import Started
from arcentra_server.db.trigger_events import TriggerEventRow
from arcentra_server.db.triggered_runs import StartRun
from arcentra_server.db.triggers import TriggerRow
from arcentra_server.domain.definition import CatchUp, CronTrigger, EventTrigger, PipelineSpec, TriggerSpec
from arcentra_server.domain.errors import Unavailable, WriteConflict
from arcentra_server.domain.instantiate import Trigger
from arcentra_server.domain.states import TriggerType
from arcentra_server.domain.trigger_entries import TriggerOutcome
from arcentra_server.services.cron import CronService
from arcentra_server.services.pipelines import NewPipeline, PipelineChange
from arcentra_server.services.triggers import TriggerService
from tests.support.clock import FakeClock
from tests.support.dying import DyingDatabase, Fuse, Killed, dying_start
from tests.support.shapes import shape
from tests.support.world import World

HOURLY = CronTrigger("0 * * * *")
EVERY_MINUTE = CronTrigger("* * * * *")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock("2026-11-26T11:30:00")


class Schedules:
    """Pipelines with schedules, and servers that look at them."""

    def __init__(self, world: World, clock: FakeClock) -> None:
        self.world = world
        self.clock = clock

    async def pipeline(self, *found: TriggerSpec, name: str = "") -> UUID:
        """Make a pipeline whose schedules count from now on."""
        spec = self.spec(*found)
        pipeline = await self.world.pipeline(spec, name)
        async with self.world.database.transaction() as tx:
            await triggers.remove(tx, pipeline)
            await triggers.replace(tx, pipeline, spec, enabled=True, now=self.clock.now)
        return pipeline

    def spec(self, *found: TriggerSpec) -> PipelineSpec:
        return replace(shape("."), triggers=found)

    def service(self, start: StartRun | None = None, fuse: Fuse | None = None) -> CronService:
        database = DyingDatabase(self.world.database, fuse) if fuse else self.world.database
        start = start or self.world.server.starter.start
        return CronService(database, dying_start(start, fuse) if fuse else start, clock=self.clock)

    async def rows(self, pipeline: UUID | None = None) -> list[TriggerRow]:
        service = TriggerService(self.world.database, clock=self.clock)
        return await service.list_triggers(pipeline_id=pipeline, namespace="")

    async def next_at(self, pipeline: UUID) -> str:
        [row] = await self.rows(pipeline)
        return f"{row.next_at:%d %H:%M}" if row.next_at else "none"

    async def runs(self, pipeline: UUID | None = None) -> int:
        query = "SELECT count(*) FROM pipeline_runs WHERE $1::uuid IS NULL OR pipeline_id = $1"
        return int(await self.world.value(query, pipeline))

    async def entries(self, pipeline: UUID | None = None) -> list[TriggerEventRow]:
        service = TriggerService(self.world.database, clock=self.clock)
        rows, _ = await service.list_events(
            pipeline_id=pipeline, namespace="", hook_id=None, outcome=None, page=Page(size=100)
        )
        return sorted(rows, key=lambda row: (row.tick_at or row.at, row.id))

    async def told(self, pipeline: UUID | None = None) -> list[str]:
        return [f"{row.tick_at:%H:%M} {row.outcome}" for row in await self.entries(pipeline)]


@pytest.fixture
def schedules(world: World, clock: FakeClock) -> Schedules:
    return Schedules(world, clock)


async def test_a_tick_starts_a_run(schedules: Schedules, clock: FakeClock, world: World) -> None:
    trigger = CronTrigger("0 12 * * *", branch="main", variables={"MODE": "nightly"})
    pipeline = await schedules.pipeline(trigger, name="build")
    service = schedules.service()
    clock.set("2026-11-26T11:59:59.999")
    assert await service.run_once() == 0
    clock.set("2026-11-26T12:00:00")
    assert await service.run_once() == 1
    assert await service.run_once() == 0
    [entry] = await schedules.entries(pipeline)
    assert (entry.outcome, entry.type, entry.namespace, entry.pipeline_name, entry.trigger_index, entry.reason) == (
        TriggerOutcome.FIRED,
        TriggerType.CRON,
        "default",
        "build",
        0,
        "",
    )
    assert (f"{entry.tick_at}", entry.summary) == ("2026-11-26 12:00:00+00:00", "0 12 * * * UTC")
    assert entry.run_id is not None
    run = await world.server.runs.get(entry.run_id)
    assert (run.trigger_type, run.triggered_by, run.branch, run.variables) == (
        TriggerType.CRON,
        "cron",
        "main",
        {"MODE": "nightly"},
    )
    [row] = await schedules.rows(pipeline)
    assert (row.last_run_id, row.last_fired_at, row.next_at) == (run.id, clock.now, clock.now + timedelta(days=1))


async def test_equal_triggers_are_one(schedules: Schedules, clock: FakeClock) -> None:
    pipeline = await schedules.pipeline(HOURLY, EventTrigger(("push",)), HOURLY, replace(HOURLY, branch="next"))
    clock.set("2026-11-26T12:00:05")
    assert await schedules.service().run_once() == 2
    assert [row.index for row in await schedules.rows(pipeline)] == [0, 1, 3]


async def test_several_servers_at_once(schedules: Schedules, clock: FakeClock) -> None:
    for _ in range(45):
        await schedules.pipeline(HOURLY)
    for hour in (12, 13):
        clock.set(f"2026-11-26T{hour}:00:01")
        counts = await asyncio.gather(*(schedules.service().run_once() for _ in range(3)))
        assert sum(counts) == 45
    assert await schedules.runs() == 90
    assert await schedules.told() == ["12:00 FIRED"] * 45 + ["13:00 FIRED"] * 45


@pytest.mark.parametrize("catch_up", CatchUp)
@pytest.mark.parametrize("away", [16, 120])
async def test_servers_that_die_between_any_two_steps(
    schedules: Schedules, clock: FakeClock, catch_up: CatchUp, away: int
) -> None:
    """Whatever was done before, the tick has one fate and at most one run, and the ledger tells which."""
    steps = 0
    while True:
        pipeline = await schedules.pipeline(replace(HOURLY, catch_up=catch_up))
        clock.set("2026-11-26T12:00:01")
        fuse = Fuse(steps)
        try:
            await schedules.service(fuse=fuse).run_once()
        except Killed:
            assert fuse.burnt
        runs_before = await schedules.runs(pipeline)
        clock.go_on(seconds=away)
        await schedules.service().run_once()
        runs, told = await schedules.runs(pipeline), await schedules.told(pipeline)
        fires = runs_before == 1 or away < 60 or catch_up is CatchUp.LAST
        assert (runs, told) == (int(fires), ["12:00 FIRED" if fires else "12:00 MISSED"]), steps
        assert await schedules.next_at(pipeline) == "26 13:00"
        if not fuse.burnt:
            break
        steps += 1
        clock.set("2026-11-26T11:30:00")
    assert steps >= 10


async def test_a_server_that_only_stood_still(schedules: Schedules, clock: FakeClock, world: World) -> None:
    """It started the run, another took over meanwhile, and then it goes on as if nothing had been."""
    pipeline = await schedules.pipeline(HOURLY)
    clock.set("2026-11-26T12:00:01")
    others: list[int] = []

    async def slow(pipeline_id: UUID, trigger: Trigger) -> Started:
        clock.go_on(seconds=120)
        others.append(await schedules.service().run_once())
        return await world.server.starter.start(pipeline_id, trigger)

    await schedules.service(slow).run_once()
    assert others == [0]
    assert await schedules.runs(pipeline) == 1
    # The other one took it for missed; what is known in the end is what happened.
    assert await schedules.told(pipeline) == ["12:00 FIRED"]
    assert await schedules.next_at(pipeline) == "26 13:00"


async def test_what_was_missed(schedules: Schedules, clock: FakeClock) -> None:
    none, last = [await schedules.pipeline(replace(HOURLY, catch_up=catch_up)) for catch_up in CatchUp]
    clock.set("2026-11-26T14:20:00")
    assert await schedules.service().run_once() == 1
    assert await schedules.told(none) == ["12:00 MISSED", "13:00 MISSED", "14:00 MISSED"]
    assert await schedules.told(last) == ["12:00 MISSED", "13:00 MISSED", "14:00 FIRED"]
    reasons = [entry.reason for entry in await schedules.entries(last)]
    assert reasons == ["no server looked at it within 60 s"] * 2 + ["caught up: it is the last tick that was missed"]
    assert [await schedules.next_at(pipeline) for pipeline in (none, last)] == ["26 15:00"] * 2


async def test_what_was_missed_fills_nothing(schedules: Schedules, clock: FakeClock) -> None:
    pipeline = await schedules.pipeline(EVERY_MINUTE)
    clock.set("2026-12-26T12:00:30")
    assert await schedules.service().run_once() == 1
    assert await schedules.world.value("SELECT count(*) FROM trigger_events") == 102
    missed = await schedules.world.sql("SELECT reason FROM trigger_events WHERE key LIKE 'missed:%'")
    assert [row["reason"] for row in missed] == ["more than 1000 further ticks were missed, up to 2026-12-26 11:59 UTC"]
    assert await schedules.next_at(pipeline) == "26 12:01"


async def test_a_long_pass_misses_nothing(schedules: Schedules, clock: FakeClock, world: World) -> None:
    for _ in range(25):
        await schedules.pipeline(HOURLY)
    clock.set("2026-11-26T12:00:00")

    async def slow(pipeline_id: UUID, trigger: Trigger) -> Started:
        clock.go_on(seconds=7)
        return await world.server.starter.start(pipeline_id, trigger)

    assert await schedules.service(slow).run_once() == 25
    assert await schedules.told() == ["12:00 FIRED"] * 25


async def test_autumn_and_spring(schedules: Schedules, clock: FakeClock) -> None:
    """A night in which the clock shows half past two twice, and one in which it never does."""
    clock.set("2026-10-24T12:00:00")
    pipeline = await schedules.pipeline(CronTrigger("30 2 * * *", "Europe/Berlin"))
    for _ in range(3 * 24 * 6):
        await schedules.service().run_once()
        clock.go_on(minutes=10)
    ticks = [f"{entry.tick_at:%d %H:%M}" for entry in await schedules.entries(pipeline)]
    assert ticks == ["25 00:30", "26 01:30", "27 01:30"]
    clock.set("2027-03-27T12:00:00")
    pipeline = await schedules.pipeline(CronTrigger("30 2 * * *", "Europe/Berlin"))
    for _ in range(2 * 24 * 6):
        await schedules.service().run_once()
        clock.go_on(minutes=10)
    ticks = [f"{entry.tick_at:%d %H:%M}" for entry in await schedules.entries(pipeline)]
    assert ticks == ["28 01:00", "29 00:30"]


async def test_one_bad_schedule_keeps_no_other_from_its_tick(
    schedules: Schedules, clock: FakeClock, world: World
) -> None:
    broken, faulty, good = [
        await schedules.pipeline(trigger)
        for trigger in (HOURLY, replace(HOURLY, branch="faulty"), replace(HOURLY, branch="good"))
    ]

    async def start(pipeline_id: UUID, trigger: Trigger) -> Started:
        if pipeline_id == broken:
            raise ZeroDivisionError
        if pipeline_id == faulty:
            trigger = replace(trigger, variables={"no name": ""})
        return await world.server.starter.start(pipeline_id, trigger)

    clock.set("2026-11-26T12:00:01")
    assert await schedules.service(start).run_once() == 1
    reasons = [(await schedules.entries(pipeline))[0].reason for pipeline in (broken, faulty, good)]
    assert reasons[0] == "internal error: the server's log says more"
    assert reasons[1].startswith("variables['no name']: ")
    assert reasons[2] == ""
    assert await schedules.told() == ["12:00 REFUSED", "12:00 REFUSED", "12:00 FIRED"]


async def test_one_unreadable_schedule_keeps_no_other_from_its_tick(
    schedules: Schedules, clock: FakeClock, world: World
) -> None:
    broken, good = await schedules.pipeline(HOURLY), await schedules.pipeline(HOURLY)
    await world.sql("UPDATE triggers SET document = $2 WHERE pipeline_id = $1", broken, {"type": "cron", "what": 1})
    clock.set("2026-11-26T12:00:01")
    service = schedules.service()
    for _ in range(3):
        with pytest.raises(ExceptionGroup):
            await service.run_once()
        assert await schedules.runs(good) == 1
        clock.go_on(seconds=16)
    assert await service.run_once() == 0  # it is passed over from here on


@pytest.mark.parametrize("error", [Unavailable("away"), WriteConflict("again")])
async def test_what_may_pass_is_tried_again(schedules: Schedules, clock: FakeClock, error: Exception) -> None:
    pipeline = await schedules.pipeline(HOURLY)

    async def away(_: UUID, __: Trigger) -> Started:
        raise error

    clock.set("2026-11-26T12:00:01")
    with pytest.raises((Unavailable, ExceptionGroup)):
        await schedules.service(away).run_once()
    assert await schedules.service().run_once() == 0  # it is left alone for a while
    clock.go_on(seconds=16)
    assert await schedules.service().run_once() == 1
    assert await schedules.told(pipeline) == ["12:00 FIRED"]
    assert await schedules.runs() == 1


async def test_schedules_follow_their_pipeline(schedules: Schedules, clock: FakeClock, world: World) -> None:
    """Times are the database's here, as they are when pipelines change."""
    pipelines = world.server.pipelines
    yearly = CronTrigger("0 0 1 1 *")

    async def waiting(pipeline: UUID) -> list[tuple[int, datetime | None]]:
        return [(row.index, row.next_at) for row in await schedules.rows(pipeline)]

    new_year = await world.value("SELECT date_trunc('year', now()) + interval '1 year'")
    applied = await pipelines.apply(NewPipeline(schedules.spec(yearly), name="build"), "alice")
    pipeline = applied.pipeline.id
    assert await waiting(pipeline) == [(0, new_year)]
    # One that is there keeps the tick that it waits for, wherever it stands now; one that differs is another.
    due = clock.now
    await world.sql("UPDATE triggers SET next_at = $1", due)
    moved = schedules.spec(EventTrigger(("push",)), yearly)
    await pipelines.apply(NewPipeline(moved, name="build"), "alice")
    assert await waiting(pipeline) == [(0, None), (1, due)]
    changed = schedules.spec(replace(yearly, branch="next"))
    await pipelines.update(pipeline, PipelineChange(triggers=changed.triggers), "alice")
    assert await waiting(pipeline) == [(0, new_year)]
    await pipelines.update(pipeline, PipelineChange(enabled=False), "alice")
    assert await waiting(pipeline) == [(0, None)]
    await pipelines.update(pipeline, PipelineChange(enabled=True), "alice")
    assert await waiting(pipeline) == [(0, new_year)]
    created = await pipelines.create(NewPipeline(schedules.spec(yearly), enabled=False), "alice")
    assert await waiting(created) == [(0, None)]
    await pipelines.delete(pipeline)
    assert await world.value("SELECT count(*) FROM triggers WHERE pipeline_id = $1", pipeline) == 0


async def test_a_pipeline_that_is_disabled_at_the_last_moment(
    schedules: Schedules, clock: FakeClock, world: World
) -> None:
    pipeline = await schedules.pipeline(HOURLY)

    async def start(pipeline_id: UUID, trigger: Trigger) -> Started:
        await world.server.pipelines.update(pipeline, PipelineChange(enabled=False), "alice")
        return await world.server.starter.start(pipeline_id, trigger)

    clock.set("2026-11-26T12:00:01")
    assert await schedules.service(start).run_once() == 0
    [entry] = await schedules.entries(pipeline)
    assert (entry.outcome, "disabled" in entry.reason) == (TriggerOutcome.REFUSED, True)
    assert await schedules.next_at(pipeline) == "none"


async def test_a_time_zone_that_is_not_known_any_more(schedules: Schedules, clock: FakeClock, world: World) -> None:
    pipeline = await schedules.pipeline(HOURLY)
    document: dict[str, Any] = {"type": "cron", "schedule": "0 * * * *", "time_zone": "Mars/Base"}
    await world.sql("UPDATE triggers SET document = $1", document)
    clock.set("2026-11-26T12:00:01")
    assert await schedules.service().run_once() == 0
    assert await schedules.told(pipeline) == ["12:00 REFUSED"]
    assert await schedules.next_at(pipeline) == "none"


async def test_the_ledger_forgets(schedules: Schedules, clock: FakeClock) -> None:
    pipeline = await schedules.pipeline(EVERY_MINUTE)
    for _ in range(10):
        await schedules.service().run_once()
        clock.go_on(minutes=1)
    assert len(await schedules.entries(pipeline)) == 9
    few = TriggerService(schedules.world.database, clock=clock, ledger_rows=6)
    assert await few.prune() == 3
    assert await schedules.told(pipeline) == [f"11:3{minute} FIRED" for minute in range(4, 10)]
    clock.go_on(days=30, minutes=-3)
    assert await TriggerService(schedules.world.database, clock=clock).prune() == 3
    assert await schedules.told(pipeline) == [f"11:3{minute} FIRED" for minute in (7, 8, 9)]
