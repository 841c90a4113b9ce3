"""Status streams: the current state of what matches, then every change of it, once and in order."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.db import event_history, events
from arcentra_server.db.engine import Tx
from arcentra_server.db.event_history import own_id
from arcentra_server.db.events import EventRow
from arcentra_server.db.resource_details import Detail, StepDetail
from arcentra_server.db.resource_states import State, resolve, states
from arcentra_server.domain.errors import LimitExceeded
from arcentra_server.domain.execution import Resource
from arcentra_server.domain.states import RunStatus, StepStatus
from arcentra_server.domain.watch import Filter, Scope
from arcentra_server.services.journal.cursor import END, Cursor, View, key
from arcentra_server.services.journal.subscription import Interest, Overflow, Page
from arcentra_server.services.journal.tail import Journal

_PAGE = 1_000
_ALL = 1_000_000
# A watcher joins the live ones when it is no further behind than this: well below what a subscription can hold.
_NEAR = 200

Changes = AsyncGenerator[tuple[Page, EventRow], None]


@dataclass(frozen=True, slots=True)
class Told:
    """One message of a stream.

    `event` is a state, with id 0, or a change; `detail` what else is known, None when the resource is gone; `now` the
    moment up to which something that runs has run; `cursor` where the reader is after it.
    """

    event: EventRow
    detail: Detail | None
    now: datetime
    cursor: str

    @property
    def is_state(self) -> bool:
        return self.event.id == 0


@dataclass(frozen=True, slots=True)
class _Opening:
    """What is found when a stream opens, all at one moment.

    `states`: each with the cursor of its message; `cursor`: where the reader is after them; `awaited`: the named things
    whose end is still to be told.
    """

    scope: Scope
    states: list[tuple[State, Cursor]]
    now: datetime
    cursor: Cursor
    awaited: set[UUID]


class StatusStreams:
    """See the module."""

    def __init__(self, journal: Journal) -> None:
        self._database = journal.database
        self._journal = journal

    async def follow(self, wanted: Filter, after: str = "") -> AsyncGenerator[Told, None]:
        """Yield states, then changes; end when everything that the filter names has ended.

        Args:
            wanted: What to tell of. Where nothing is named, only what has not ended is told as state.
            after: The cursor of a message to go on after; empty to begin with the state.

        Raises:
            NotFound: something that the filter names is not there.
            ValidationError: the cursor is none.
            LimitExceeded: the reader is too slow; the text says where it can go on.
            Unavailable: the server stops, or the database is away.
        """
        resumed = Cursor.parse(after) if after else None
        async with self._journal.reading():
            opening = await self._open(wanted, resumed)
            for (event, detail), cursor in opening.states:
                yield Told(event, detail, opening.now, str(cursor))
            scope, awaited, cursor = opening.scope, opening.awaited, opening.cursor
            if scope.named and not awaited:
                return
            async with aclosing(self._changes(Interest(wanted, scope), cursor.id)) as changes:
                try:
                    async for page, event in changes:
                        if not cursor.tells(event):
                            continue
                        cursor = cursor.after(event.id)
                        if told := await _tell(wanted, page, event, cursor):
                            yield told
                        if own_id(event) in scope.named and _all_ended(awaited, event):
                            return
                except Overflow:
                    raise LimitExceeded(f"the reader is too slow; go on after event {cursor}") from None

    async def _open(self, wanted: Filter, resumed: Cursor | None) -> _Opening:
        """Take the state, and where the changes after it begin.

        The position comes before the state: what the state does not hold is then found after the position.
        """
        cursor = resumed or Cursor(self._journal.position)
        told_until = resumed.told_until if resumed else ""
        async with self._database.transaction(snapshot=True) as tx:
            moment, last = await events.snapshot(tx), await events.last_id(tx)
            now: datetime = await tx.fetchval("SELECT clock_timestamp()")
            scope = await resolve(tx, wanted)
            found: list[tuple[State, Cursor]] = []
            if told_until != END:
                rest = [
                    s for s in await states(tx, wanted, unfinished=not wanted.names_something) if key(s[0]) > told_until
                ]
                found = [(state, cursor.seen(View(key(state[0]), moment), last)) for state in rest]
                cursor = cursor.seen(View(END, moment), last)
                if found:
                    found[-1] = (rest[-1], cursor)
            untold = await _untold(tx, scope, cursor)
        return _Opening(scope, found, now, cursor, set(scope.open | (scope.named & untold)))

    async def _changes(self, interest: Interest, after: int) -> Changes:
        """Yield what comes after a place in the journal: from the table until it is near, then as it is read."""
        while self._journal.position - after > _NEAR:
            last = self._journal.position
            async with aclosing(self._history(interest, after, last)) as history:
                async for change in history:
                    yield change
            after = last
        with self._journal.subscribed(interest) as subscription:
            async with aclosing(self._history(interest, after, self._journal.position)) as history:
                async for change in history:
                    yield change
            while True:
                for change in await subscription.take():
                    yield change

    async def _history(self, interest: Interest, after: int, last: int) -> Changes:
        while after < last:
            async with self._database.transaction() as tx:
                rows = await event_history.read_between(tx, after, last, _PAGE, run_ids=interest.scope.run_ids)
            page = Page(self._database)
            concerned = [event for event in rows if interest.covers(event)]
            for event in concerned:
                page.add(event)
            for event in concerned:
                yield page, event
            after = rows[-1].id if len(rows) == _PAGE else last


async def _untold(tx: Tx, scope: Scope, cursor: Cursor) -> frozenset[UUID]:
    """Return which runs, jobs and steps have changes that a reader at this cursor is still to be told."""
    if not scope.named or scope.run_ids is None:
        return frozenset()
    later = await event_history.touched_after(tx, max(cursor.id, cursor.last), scope.run_ids)
    recent = await event_history.read_between(tx, cursor.id, cursor.last, _ALL, run_ids=scope.run_ids)
    return later | {own_id(event) for event in recent if cursor.tells(event)}


async def _tell(wanted: Filter, page: Page, event: EventRow, cursor: Cursor) -> Told | None:
    if not wanted.admits(event.resource, own_id(event), event.job_id, event.run_id, event.pipeline_id):
        return None
    detail = await page.detail(event)
    if wanted.job_name and not (isinstance(detail, StepDetail) and detail.job_name == wanted.job_name):
        return None
    return Told(event, detail, event.at, str(cursor))


def _all_ended(awaited: set[UUID], event: EventRow) -> bool:
    """Take a change of something that is named; answer whether nothing is awaited any more."""
    status = StepStatus(event.status) if event.resource is Resource.STEP else RunStatus(event.status)
    if status.terminal:
        awaited.discard(own_id(event))
    else:
        awaited.add(own_id(event))
    return not awaited
