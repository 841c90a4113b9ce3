"""Schedules: what is one, when its ticks are, and what summer time does to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcentra_server.domain.cron import check_schedule, read_schedule

MINUTE = timedelta(minutes=1)


def local(text: str, zone: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)


def ticks(schedule: str, zone: str, after: datetime, until: datetime) -> list[str]:
    """The ticks in a time, as the clocks of the zone show them."""
    found = read_schedule(schedule, zone).ticks(after, until)
    return [tick.astimezone(ZoneInfo(zone)).isoformat() for tick in found]


@pytest.mark.parametrize(
    ("schedule", "zone", "day", "expected"),
    [
        # The clock jumps from 2 to 3.
        ("30 2 * * *", "Europe/Berlin", "2026-03-29", ["2026-03-29T03:00:00+02:00"]),
        ("0,30 2 * * *", "Europe/Berlin", "2026-03-29", ["2026-03-29T03:00:00+02:00"]),
        ("0 2,3 * * *", "Europe/Berlin", "2026-03-29", ["2026-03-29T03:00:00+02:00"]),
        ("0 * * * *", "Europe/Berlin", "2026-03-29", 23),
        ("*/30 2 * * *", "Europe/Berlin", "2026-03-29", []),
        ("15 */2 * * *", "Europe/Berlin", "2026-03-29", 11),
        # The clock shows 2 to 3 twice.
        ("30 2 * * *", "Europe/Berlin", "2026-10-25", ["2026-10-25T02:30:00+02:00"]),
        ("0 * * * *", "Europe/Berlin", "2026-10-25", 25),
        (
            "*/30 2 * * *",
            "Europe/Berlin",
            "2026-10-25",
            [f"2026-10-25T02:{minute}:00+0{hours}:00" for hours in (2, 1) for minute in ("00", "30")],
        ),
        ("30 2 * * *", "America/New_York", "2026-03-08", ["2026-03-08T03:00:00-04:00"]),
        ("30 1 * * *", "America/New_York", "2026-11-01", ["2026-11-01T01:30:00-04:00"]),
        ("30 * * * *", "America/New_York", "2026-11-01", 25),
        # Half an hour, from 2:00 to 2:30 and from 2:00 to 1:30.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-04", ["2026-10-04T02:30:00+11:00"]),
        ("15 * * * *", "Australia/Lord_Howe", "2026-10-04", 23),
        ("45 * * * *", "Australia/Lord_Howe", "2026-10-04", 24),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-05", ["2026-04-05T01:45:00+11:00"]),
        ("45 * * * *", "Australia/Lord_Howe", "2026-04-05", 25),
        ("15 * * * *", "Australia/Lord_Howe", "2026-04-05", 24),
        # At midnight, where the day begins at 1, or twice.
        ("0 0 * * *", "Africa/Cairo", "2026-04-24", ["2026-04-24T01:00:00+03:00"]),
        ("30 0 * * *", "America/Havana", "2026-11-01", ["2026-11-01T00:30:00-04:00"]),
        ("30 * 1 11 *", "America/Havana", "2026-11-01", 25),
        # A day that did not exist.
        ("0 9 * * *", "Pacific/Apia", "2011-12-31", ["2011-12-31T00:00:00+14:00", "2011-12-31T09:00:00+14:00"]),
    ],
)
def test_days_on_which_the_clock_changes(schedule: str, zone: str, day: str, expected: list[str] | int) -> None:
    begin = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    end = (datetime.fromisoformat(day) + timedelta(days=1)).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    found = ticks(schedule, zone, begin - timedelta(seconds=1), end - timedelta(seconds=1))
    assert (len(found) if isinstance(expected, int) else found) == expected


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        # The first pass of the hour has had its tick: it does not come again in the second.
        ("30 2 * * *", local("2026-10-25T02:10", "Europe/Berlin", fold=1), "2026-10-26T02:30:00+01:00"),
        ("30 2 * * *", local("2026-10-25T02:10", "Europe/Berlin"), "2026-10-25T02:30:00+02:00"),
        ("0 3 * * *", local("2026-10-25T02:50", "Europe/Berlin"), "2026-10-25T03:00:00+01:00"),
        ("* * * * *", local("2026-10-25T02:59", "Europe/Berlin"), "2026-10-25T02:00:00+01:00"),
        ("0 12 * * 1-5", local("2026-11-27T12:00", "Europe/Berlin"), "2026-11-30T12:00:00+01:00"),
        ("0 0 29 2 *", local("2026-01-01T00:00", "Europe/Berlin"), "2028-02-29T00:00:00+01:00"),
        ("30 */24 25 10 *", local("2026-01-01T00:00", "Europe/Berlin"), "2026-10-25T00:30:00+02:00"),
        ("@daily", local("2026-11-26T00:00", "Europe/Berlin"), "2026-11-27T00:00:00+01:00"),
        ("@Hourly", local("2026-11-26T00:00:30", "Europe/Berlin"), "2026-11-26T01:00:00+01:00"),
        ("@weekly", local("2026-11-26T00:00", "Europe/Berlin"), "2026-11-29T00:00:00+01:00"),
        ("@monthly", local("2026-11-26T00:00", "Europe/Berlin"), "2026-12-01T00:00:00+01:00"),
        ("@yearly", local("2026-11-26T00:00", "Europe/Berlin"), "2027-01-01T00:00:00+01:00"),
        ("0 18 L * *", local("2026-11-26T00:00", "Europe/Berlin"), "2026-11-30T18:00:00+01:00"),
    ],
)
def test_next_tick(schedule: str, after: datetime, expected: str) -> None:
    tick = read_schedule(schedule, "Europe/Berlin").next_after(after)
    assert tick is not None
    assert tick.tzinfo is UTC
    assert tick.astimezone(ZoneInfo("Europe/Berlin")).isoformat() == expected


def test_a_second_pass_in_a_far_hour_is_not_skipped() -> None:
    """Between the first and the second time that the clock shows 0:30, the next new wall clock time is a year away."""
    havana = "America/Havana"
    first = local("2026-11-01T00:30", havana)
    assert ticks("30 */24 1 11 *", havana, first, first + timedelta(days=1)) == ["2026-11-01T00:30:00-05:00"]


@pytest.mark.parametrize(
    ("schedule", "zone", "faults"),
    [
        ("30 2 * * *", "UTC", []),
        ("0 9 * * MON-FRI", "Asia/Kathmandu", []),
        ("*/15 9-17 * jan,feb 1#1", "Europe/Berlin", []),
        ("61 * * * *", "UTC", ["'61 * * * *' is not a schedule: bad minute"]),
        ("0 0 31 2 *", "UTC", ["'0 0 31 2 *' is not a schedule: bad day-of-month"]),
        ("0 0 * * */0", "UTC", ["'0 0 * * */0' is not a schedule: bad day-of-week"]),
        (
            "0 0 */30 2 MON#5",
            "UTC",
            ["'0 0 */30 2 MON#5' never comes: no day is both its day of month and its day of week"],
        ),
        ("* * * * * *", "UTC", ["'* * * * * *' is not a schedule: write five fields (minute, hour, "]),
        ("@reboot", "UTC", ["'@reboot' is not a schedule: write five fields (minute, hour, "]),
        ("", "UTC", ["'' is not a schedule: write five fields (minute, hour, "]),
        ("0 0 * * *\0", "UTC", ["'0 0 * * *\\x00' is not a schedule: bad day-of-week"]),
        (f"{'1,' * 100}1 * * * *", "UTC", ["'1,1,1,"]),
        ("0 0 * * *", "", ["'' is not a time zone that this server knows"]),
        ("0 0 * * *", "Mars/Base", ["'Mars/Base' is not a time zone that this server knows"]),
        ("0 0 * * *", "../../etc/passwd", ["'../../etc/passwd' is not a time zone"]),
        ("0 0 * * *", "localtime", ["'localtime' is not a time zone"]),
        ("x", "y", ["'x' is not a schedule", "'y' is not a time zone"]),
    ],
)
def test_faults(schedule: str, zone: str, faults: list[str]) -> None:
    found = check_schedule(schedule, zone)
    assert len(found) == len(faults)
    assert all(text.startswith(fault) for text, fault in zip(found, faults, strict=True)), found
    if faults:
        with pytest.raises(ValueError, match=r"is not a|never comes"):
            read_schedule(schedule, zone)


def test_explanation() -> None:
    assert read_schedule("30 2 * * 1-5", "Europe/Berlin").explain() == "At 02:30 on Monday through Friday"
    assert read_schedule("@weekly", "UTC").explain() == "At 00:00 on Sunday"


@given(st.text(alphabet="0123456789*/,-#@LWMONJAN \t\0ü", max_size=40), st.sampled_from(["UTC", "Europe/Berlin"]))
@settings(max_examples=500)
def test_any_text_is_a_schedule_or_has_a_fault(text: str, zone: str) -> None:
    if not check_schedule(text, zone):
        schedule = read_schedule(text, zone)
        assert schedule.next_after(local("2026-01-01T00:00", "UTC")) is not None
        assert schedule.explain()


# A second implementation: look at every minute.

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Africa/Casablanca"]
FIELDS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 6)}


@dataclass(frozen=True)
class Field:
    """A field as a text, and the values it stands for."""

    text: str
    values: frozenset[int]


def field_of(name: str) -> st.SearchStrategy[Field]:
    low, high = FIELDS[name]
    whole = range(low, high + 1)

    def stepped(step: int) -> Field:
        return Field(f"*/{step}", frozenset(whole[::step]))

    def listed(values: Iterable[int]) -> Field:
        chosen = sorted(set(values))
        return Field(",".join(map(str, chosen)), frozenset(chosen))

    numbers = st.integers(low, high)
    return st.one_of(
        st.just(Field("*", frozenset(whole))),
        st.integers(1, high).map(stepped),
        st.lists(numbers, min_size=1, max_size=4).map(listed),
        st.tuples(numbers, numbers).map(
            lambda pair: Field(f"{min(pair)}-{max(pair)}", frozenset(range(min(pair), max(pair) + 1)))
        ),
    )


@dataclass(frozen=True)
class Oracle:
    """Ticks by the rules in words, minute by minute."""

    minute: Field
    hour: Field
    day: Field
    weekday: Field
    zone: str

    @property
    def text(self) -> str:
        return f"{self.minute.text} {self.hour.text} {self.day.text} * {self.weekday.text}"

    def shows(self, wall: datetime) -> bool:
        by_day, by_weekday = wall.day in self.day.values, wall.isoweekday() % 7 in self.weekday.values
        both = self.day.text.startswith("*") or self.weekday.text.startswith("*")
        day = by_day and by_weekday if both else by_day or by_weekday
        return day and wall.hour in self.hour.values and wall.minute in self.minute.values

    def ticks(self, begin: datetime, end: datetime) -> list[datetime]:
        by_wall_time = not self.minute.text.startswith("*") and not self.hour.text.startswith("*")
        found: set[datetime] = set()
        previous = self.wall(begin - MINUTE)
        for instant in minutes(begin, end):
            wall = self.wall(instant)
            jumped_over = minutes(previous + MINUTE, wall - MINUTE) if wall > previous + MINUTE else ()
            is_second_pass = instant.astimezone(ZoneInfo(self.zone)).fold == 1
            if by_wall_time and any(self.shows(missed) for missed in jumped_over):
                found.add(instant)
            if self.shows(wall) and not (by_wall_time and is_second_pass):
                found.add(instant)
            previous = wall
        return sorted(found)

    def wall(self, instant: datetime) -> datetime:
        return instant.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None, fold=0)


def minutes(begin: datetime, end: datetime) -> Iterator[datetime]:
    while begin <= end:
        yield begin
        begin += MINUTE


CHANGES = {
    "Europe/Berlin": ["2026-03-29", "2026-10-25"],
    "America/New_York": ["2026-03-08", "2026-11-01"],
    "Australia/Lord_Howe": ["2026-04-05", "2026-10-04"],
    "America/Havana": ["2026-03-08", "2026-11-01"],
    "Africa/Casablanca": ["2026-02-15", "2026-03-22"],
}

schedules = st.builds(
    Oracle, field_of("minute"), field_of("hour"), field_of("day"), field_of("weekday"), st.sampled_from(ZONES)
)


@given(schedules, st.integers(0, 1), st.integers(-1_500, 60))
@settings(max_examples=100, deadline=None)
def test_never_twice_and_never_skipped(oracle: Oracle, which: int, offset: int) -> None:
    change = datetime.fromisoformat(CHANGES[oracle.zone][which]).replace(tzinfo=UTC)
    begin = change + offset * MINUTE
    end = begin + timedelta(days=1, hours=6)
    expected = oracle.ticks(begin, end)
    schedule = read_schedule(oracle.text, oracle.zone)
    assert list(schedule.ticks(begin - timedelta(seconds=1), end)) == expected
    # It does not matter from where one looks.
    for instant in (begin, begin + timedelta(hours=5, seconds=7), change, change + timedelta(hours=2)):
        following = schedule.next_after(instant)
        assert following is None or following > instant
        later = [tick for tick in expected if tick > instant]
        if instant >= begin and later:
            assert following == later[0]
