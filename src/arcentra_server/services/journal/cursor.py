"""Where a reader of a status stream is: the text that each message carries and that a later call goes on from.

The plain case is the id of the last event told. Beside it a cursor can carry views: what the reader was told as current
state, each up to the key of a resource and at a moment of the database. An event that the view of its resource holds is
part of the state that was told. A state that was cut off is continued at another moment, with a view of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from arcentra_server.db.event_history import own_id
from arcentra_server.db.events import EventRow, Snapshot
from arcentra_server.domain.errors import ValidationError

END = "~"
"""The key after all keys."""

_LONGEST_TEXT = 16_384
_LARGEST_ID = 2**63 - 1
_VIEW = r"(?:~|[ajrs][0-9a-f]{32})-[0-9]{1,19}-[0-9]{1,19}(?:-[0-9]{1,19})*"
_TEXT = re.compile(rf"([0-9]{{1,19}})(?:\.([0-9]{{1,19}})\.({_VIEW}(?:_{_VIEW})*))?")


@dataclass(frozen=True, slots=True)
class View:
    """A state that was told of the resources up to and including the key `until`."""

    until: str
    moment: Snapshot

    def __str__(self) -> str:
        numbers = (self.moment.xmin, self.moment.xmax, *sorted(self.moment.running))
        return f"{self.until}-{'-'.join(map(str, numbers))}"


@dataclass(frozen=True, slots=True)
class Cursor:
    """See the module. `last`: the largest event id that a view could hold; after it the views are of no use."""

    id: int
    last: int = 0
    views: tuple[View, ...] = ()

    def __str__(self) -> str:
        if not self.views:
            return str(self.id)
        return f"{self.id}.{self.last}.{'_'.join(map(str, self.views))}"

    @property
    def told_until(self) -> str:
        """The key up to which the state was told: END when it is complete."""
        return self.views[-1].until if self.views else END

    def tells(self, event: EventRow) -> bool:
        """Answer whether an event is news: it comes after what was told, and no state that was told holds it."""
        if event.id <= self.id:
            return False
        if self.views and event.id <= self.last:
            own = key(event)
            view = next((view for view in self.views if own <= view.until), None)
            return view is None or not view.moment.holds(event.xid)
        return True

    def after(self, event_id: int) -> Cursor:
        """Return where a reader is that was told everything up to an event."""
        return Cursor(event_id) if event_id >= self.last else replace(self, id=event_id)

    def seen(self, view: View, last: int) -> Cursor:
        """Return where a reader is that was also told a state."""
        return Cursor(self.id, max(self.last, last), (*self.views, view))

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read a cursor.

        Raises:
            ValidationError: the text is none.
        """
        match = _TEXT.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
        if match is None:
            raise ValidationError.at("after_event_id", "is not the event_id of a message")
        identity, last, views = match.groups()
        cursor = cls(int(identity), int(last or 0), tuple(_view(part) for part in (views or "").split("_") if part))
        if max(cursor.id, cursor.last) > _LARGEST_ID:
            raise ValidationError.at("after_event_id", "is not the event_id of a message")
        return cursor


def key(event: EventRow) -> str:
    """Return the place of a resource in the order in which states are told: by kind, then by id."""
    return event.resource.value[0] + own_id(event).hex


def _view(text: str) -> View:
    until, xmin, xmax, *running = text.split("-")
    return View(until, Snapshot(int(xmin), int(xmax), frozenset(map(int, running))))
