"""Which ticks of a schedule fire when a server looks at it, and which were missed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice

from arcentra_server.domain.cron import Schedule
from arcentra_server.domain.definition import CatchUp

MOST_MISSED = 100
MOST_COUNTED = 1_000
_MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class DueTicks:
    """What is due of a schedule, in the order of time.

    `missed` has at most 100 ticks; `more_missed` is how many there are beyond them, up to `last_missed`, and 1,001 when
    there are more than 1,000.
    """

    fire: tuple[datetime, ...]
    missed: tuple[datetime, ...]
    more_missed: int
    last_missed: datetime | None
    next_at: datetime | None

    def more(self) -> str:
        """Return in words what is not listed."""
        count = f"more than {MOST_COUNTED}" if self.more_missed > MOST_COUNTED else str(self.more_missed)
        return f"{count} further ticks were missed, up to {self.last_missed:%Y-%m-%d %H:%M} UTC"


def plan_ticks(
    schedule: Schedule, catch_up: CatchUp, first: datetime, now: datetime, late_before: datetime
) -> DueTicks:
    """Decide what becomes of the ticks from `first`, which is due, to `now`.

    Those before `late_before` were due while no server looked: they are missed, but the last of them fires if the
    schedule says so and none that came in time fires instead.
    """
    in_time = [first] if first >= late_before else []
    in_time += schedule.ticks(max(first, late_before - _MOMENT), now)
    end = late_before
    if catch_up is CatchUp.LAST and not in_time:
        end = _last_before(schedule, first, late_before)
        in_time = [end]
    missed = tuple(islice(_from(schedule, first, end), MOST_MISSED))
    more, last = 0, None
    if len(missed) == MOST_MISSED:
        more = sum(1 for _ in islice(schedule.ticks(missed[-1], end - _MOMENT), MOST_COUNTED + 1))
        last = _last_before(schedule, first, end) if more else None
    return DueTicks(tuple(in_time), missed, more, last, schedule.next_after(now))


def _from(schedule: Schedule, first: datetime, end: datetime) -> Iterator[datetime]:
    """Yield the ticks from `first`, which is one, to before `end`."""
    return chain([first], schedule.ticks(first, end - _MOMENT)) if first < end else iter(())


def _last_before(schedule: Schedule, first: datetime, end: datetime) -> datetime:
    """Return the last tick before `end`, looking back further and further, at most to `first`, which is one."""
    window = timedelta(hours=1)
    while end - window > first:
        found = list(schedule.ticks(end - window, end - _MOMENT))
        if found:
            return found[-1]
        window *= 24
    return list(_from(schedule, first, end))[-1]
