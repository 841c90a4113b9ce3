"""Which of the events that are visible may be told: those before which nothing can appear any more. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from arcentra_server.db.events import EventRow, Snapshot


class Gaps:
    """Follows the ids of the journal.

    An id that is missing between visible ones belongs to a transaction that runs, or to one that was rolled back. All of
    them had their numbers when the gap was first seen, so once all below a number that was given out later have ended,
    what is still missing never comes. The `xmax` of a snapshot is no such number: a transaction that runs may have a
    larger one. So where `needs_bound` says so, the moment that comes in has a number from after it as its `xmax`.
    """

    def __init__(self, last_id: int, moment: Snapshot) -> None:
        self._begun = False
        self._position = last_id
        # Everything up to the first id is settled once no transaction below the second runs.
        self._barrier: tuple[int, int] | None = (last_id, moment.xmax)

    @property
    def position(self) -> int | None:
        """The id up to which everything is settled, None before the start is."""
        return self._position if self._begun else None

    @property
    def is_open(self) -> bool:
        """Whether something that is visible has to wait for something that is not."""
        return self._barrier is not None

    def begin(self, moment: Snapshot) -> None:
        """Find out whether what ran at the start has ended, so that nothing before the first position can appear."""
        if not self._begun and self._barrier is not None and moment.xmin >= self._barrier[1]:
            self._begun, self._barrier = True, None

    def needs_bound(self, visible: Sequence[EventRow], moment: Snapshot) -> bool:
        """Answer whether `settle` may find a gap that it has not seen before."""
        if self._barrier and moment.xmin < self._barrier[1]:
            return False
        return bool(visible) and visible[-1].id != self._position + len(visible)

    def settle(self, visible: Sequence[EventRow], moment: Snapshot) -> Sequence[EventRow]:
        """Take what is visible after the position, read at one moment; return the part that may be told."""
        passable = self._barrier[0] if self._barrier and moment.xmin >= self._barrier[1] else 0
        count = 0
        for event in visible:
            if event.id != self._position + 1 and event.id - 1 > passable:
                break
            self._position = event.id
            count += 1
        if self._barrier and (passable or self._position >= self._barrier[0]):
            self._barrier = None
        if count < len(visible) and self._barrier is None:
            self._barrier = (visible[-1].id, moment.xmax)
        return visible[:count]
