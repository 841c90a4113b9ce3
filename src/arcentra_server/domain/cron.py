"""Schedules of cron: five fields or an @name, in a time zone.

What summer time does to them is what cron of Debian does. A schedule that names its minutes and hours (`30 2 * * *`)
runs once for each of its wall clock times: one that the clock jumps over runs at the jump, one that the clock shows
twice runs the first time. A schedule whose minute or hour starts with `*` runs whenever the clock shows one of its
times: not while they are jumped over, and both times when they come twice.

`cronsim` finds the wall clock times; here they become instants. It is asked without a zone: with one it leaves out
times that come twice after a change of half an hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

LONGEST_SCHEDULE = 200
NAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FORM = "write five fields (minute, hour, day of month, month, day of week), for example 30 2 * * 1-5, or one of "
_SECOND = timedelta(seconds=1)
# No zone changes its clock twice within this time, or by as much.
_WINDOW = timedelta(days=2)
# Any time will do: a schedule without a tick in the fifty years after it never has one.
_ANY_TIME = datetime(2024, 1, 1)  # noqa: DTZ001 - a time of the wall clock


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule that was read by `read_schedule`. Instants are answered in UTC."""

    fields: str
    zone: tzinfo
    _by_wall_time: bool = field(repr=False)

    def next_after(self, after: datetime) -> datetime | None:
        """Return the first tick later than an instant; None when there is none in the next fifty years."""
        after = after.astimezone(UTC)
        return self._next_wall_time(after) if self._by_wall_time else self._next_shown(after)

    def ticks(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Yield the ticks that are later than `after` and not later than `until`."""
        tick = self.next_after(after)
        while tick is not None and tick <= until:
            yield tick
            tick = self.next_after(tick)

    def explain(self) -> str:
        """Return the schedule in words."""
        return CronSim(self.fields, _ANY_TIME).explain()

    def _next_wall_time(self, after: datetime) -> datetime | None:
        for wall in CronSim(self.fields, self._wall(after)):
            tick = self._instant(wall)
            # The clock shows a time for the second time: what is still to come on it has run the first time.
            if tick > after:
                return tick
        return None

    def _next_shown(self, after: datetime) -> datetime | None:
        at, wall = after, self._wall(after)
        while True:
            found = next(CronSim(self.fields, wall), None)
            if found is None:
                return None
            tick = (found - self._offset(at)).replace(tzinfo=UTC)
            end = min(tick, at + _WINDOW)
            if self._offset(at) != self._offset(end):
                at = self._change(at, end)
                wall = self._wall(at) - _SECOND
            elif end == tick:
                return tick
            else:
                # The clock shows no time of the schedule before the one that was found.
                at = max(end, tick - _WINDOW)
                wall = self._wall(at)

    def _instant(self, wall: datetime) -> datetime:
        """Return when the clock shows a time first, or jumps over it."""
        instant = wall.replace(tzinfo=self.zone).astimezone(UTC)
        if self._wall(instant) == wall:
            return instant
        return self._change(wall.replace(tzinfo=self.zone, fold=1).astimezone(UTC), instant)

    def _change(self, before: datetime, after: datetime) -> datetime:
        """Return the first second in which the zone has the offset it has at `after`, and no more that at `before`."""
        offset = self._offset(before)
        while after - before > _SECOND:
            middle = before + (after - before) // 2
            if self._offset(middle) == offset:
                before = middle
            else:
                after = middle
        return after.replace(microsecond=0)

    def _wall(self, instant: datetime) -> datetime:
        return instant.astimezone(self.zone).replace(tzinfo=None, fold=0)

    def _offset(self, instant: datetime) -> timedelta:
        return instant.astimezone(self.zone).utcoffset() or timedelta()


def read_schedule(text: str, time_zone: str) -> Schedule:
    """Read a schedule.

    Raises:
        ValueError: it is not one, never comes, or the time zone is not known; the text names each fault.
    """
    faults = check_schedule(text, time_zone)
    if faults:
        raise ValueError("; ".join(faults))
    return _read(text, time_zone)


def check_schedule(text: str, time_zone: str) -> list[str]:
    """Return what is wrong with a schedule and its time zone."""
    faults = []
    if time_zone not in _zones():
        faults.append(f"{time_zone[:80]!r} is not a time zone that this server knows: write for example Europe/Berlin")
    problem = _problem(text)
    return [problem, *faults] if problem else faults


def _problem(text: str) -> str:
    shown = repr(text[:80])
    fields = _fields(text)
    if len(text) > LONGEST_SCHEDULE or len(fields.split()) != 5:
        return f"{shown} is not a schedule: {_FORM}{', '.join(NAMES)}"
    try:
        simulation = CronSim(fields, _ANY_TIME)
    except CronSimError as error:
        return f"{shown} is not a schedule: {str(error).lower()}"
    if next(simulation, None) is None:
        return f"{shown} never comes: no day is both its day of month and its day of week"
    return ""


def _fields(text: str) -> str:
    return NAMES.get(text.strip().lower(), text)


@lru_cache(maxsize=4096)
def _read(text: str, time_zone: str) -> Schedule:
    fields = " ".join(_fields(text).split())
    minute, hour = fields.split()[:2]
    zone = UTC if time_zone == "UTC" else ZoneInfo(time_zone)
    return Schedule(fields, zone, not minute.startswith("*") and not hour.startswith("*"))


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    """Return the names of the zones. Those that are left out mean another zone on another machine."""
    return frozenset({"UTC", *available_timezones()} - {"localtime", "posixrules", "Factory"})
