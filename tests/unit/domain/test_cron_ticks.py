"""Which ticks fire, and which were missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcentra_server.domain.cron import Schedule, read_schedule
from arcentra_server.domain.cron_ticks import MOST_COUNTED, MOST_MISSED, plan_ticks
from arcentra_server.domain.definition import CatchUp

EVERY_MINUTE = read_schedule("* * * * *", "UTC")
HOURLY = read_schedule("@hourly", "UTC")


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-26T{text}+00:00")


def shown(ticks: tuple[datetime, ...]) -> list[str]:
    return [f"{tick:%H:%M}" for tick in ticks]


@pytest.mark.parametrize(
    ("schedule", "catch_up", "first", "now", "fire", "missed", "next_at"),
    [
        (HOURLY, CatchUp.NONE, "12:00:00", "12:00:00.3", ["12:00"], [], "13:00"),
        (HOURLY, CatchUp.NONE, "12:00:00", "12:00:59", ["12:00"], [], "13:00"),
        (HOURLY, CatchUp.NONE, "12:00:00", "12:01:00", ["12:00"], [], "13:00"),
        (HOURLY, CatchUp.NONE, "12:00:00", "12:01:01", [], ["12:00"], "13:00"),
        (HOURLY, CatchUp.LAST, "12:00:00", "12:01:01", ["12:00"], [], "13:00"),
        (HOURLY, CatchUp.NONE, "09:00:00", "12:30:00", [], ["09:00", "10:00", "11:00", "12:00"], "13:00"),
        (HOURLY, CatchUp.LAST, "09:00:00", "12:30:00", ["12:00"], ["09:00", "10:00", "11:00"], "13:00"),
        # One that comes in time fires instead of the last that was missed.
        (HOURLY, CatchUp.LAST, "10:00:00", "12:00:30", ["12:00"], ["10:00", "11:00"], "13:00"),
        (EVERY_MINUTE, CatchUp.NONE, "11:58:00", "12:00:10", ["12:00"], ["11:58", "11:59"], "12:01"),
        (EVERY_MINUTE, CatchUp.NONE, "11:59:00", "12:00:00", ["11:59", "12:00"], [], "12:01"),
    ],
)
def test_what_becomes_of_ticks(
    schedule: Schedule, catch_up: CatchUp, first: str, now: str, fire: list[str], missed: list[str], next_at: str
) -> None:
    plan = plan_ticks(schedule, catch_up, at(first), at(now), at(now) - timedelta(seconds=60))
    assert (shown(plan.fire), shown(plan.missed), plan.more_missed) == (fire, missed, 0)
    assert plan.next_at == at(f"{next_at}:00")


def test_the_list_of_what_was_missed_is_bounded() -> None:
    now = at("12:00:30")
    two_hours = plan_ticks(EVERY_MINUTE, CatchUp.LAST, now.replace(second=0) - timedelta(hours=2), now, now)
    assert (len(two_hours.missed), two_hours.more_missed, shown(two_hours.fire)) == (MOST_MISSED, 20, ["12:00"])
    assert two_hours.more() == "20 further ticks were missed, up to 2026-11-26 11:59 UTC"
    a_year = plan_ticks(EVERY_MINUTE, CatchUp.NONE, now.replace(second=0) - timedelta(days=365), now, now)
    assert (len(a_year.missed), a_year.more_missed, a_year.fire) == (MOST_MISSED, MOST_COUNTED + 1, ())
    assert a_year.more() == "more than 1000 further ticks were missed, up to 2026-11-26 12:00 UTC"
    exactly = plan_ticks(HOURLY, CatchUp.NONE, at("12:00:00") - timedelta(hours=99), at("12:30:00"), at("12:20:00"))
    assert (len(exactly.missed), exactly.more_missed, exactly.last_missed) == (MOST_MISSED, 0, None)


SCHEDULES = [read_schedule(text, "Europe/Berlin") for text in ("* * * * *", "*/7 * * * *", "0 4,16 * * *", "0 0 1 * *")]


@given(
    st.sampled_from(SCHEDULES),
    st.sampled_from(CatchUp),
    st.integers(0, 3_000),
    st.integers(0, 3_000),
    st.integers(0, 60_000),
)
@settings(max_examples=200, deadline=None)
def test_every_tick_has_one_fate(schedule: Schedule, catch_up: CatchUp, start: int, late: int, seconds: int) -> None:
    first = schedule.next_after(datetime(2026, 3, 28, tzinfo=UTC) + timedelta(minutes=start))
    assert first is not None
    now = first + timedelta(seconds=seconds)
    plan = plan_ticks(schedule, catch_up, first, now, now - timedelta(seconds=late))
    due = [first, *schedule.ticks(first, now)]
    told = [*plan.missed, *plan.fire]
    assert plan.next_at == schedule.next_after(now)
    assert sorted(set(told)) == told
    assert len(told) + plan.more_missed == len(due)
    assert [tick for tick in due if tick >= now - timedelta(seconds=late)] in ([*plan.fire], [])
    if catch_up is CatchUp.LAST:
        assert plan.fire[-1] == due[-1]
