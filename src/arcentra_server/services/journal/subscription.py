"""What reaches one watcher, and what is known of the events that it is told of."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from arcentra_server.db.engine import Database
from arcentra_server.db.event_history import own_id
from arcentra_server.db.events import EventRow
from arcentra_server.db.resource_details import Detail, details
from arcentra_server.domain.errors import Unavailable
from arcentra_server.domain.watch import Filter, Scope


class Overflow(Exception):
    """The watcher is too slow: what it has not taken is dropped."""


class Page:
    """Events that were read together. What is known of them is loaded once, for all watchers, when the first asks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._events: list[EventRow] = []
        self._details: dict[UUID, Detail] | None = None
        self._loading = asyncio.Lock()

    def add(self, event: EventRow) -> None:
        """Add an event that somebody will ask about."""
        self._events.append(event)

    async def detail(self, event: EventRow) -> Detail | None:
        """Return what is known of the resource of an event, None when it is gone.

        Raises:
            Unavailable: the database is away.
        """
        if self._details is None:
            async with self._loading:
                if self._details is None:
                    async with self._database.transaction() as tx:
                        self._details = await details(tx, self._events)
        return self._details.get(own_id(event))


@dataclass(frozen=True, slots=True)
class Interest:
    """What concerns a watcher: what it wants to be told, and the end of what it is bound to."""

    wanted: Filter
    scope: Scope

    def covers(self, event: EventRow) -> bool:
        """Answer whether an event concerns the watcher."""
        own = own_id(event)
        return own in self.scope.named or self.wanted.admits(
            event.resource, own, event.job_id, event.run_id, event.pipeline_id
        )


class Subscription:
    """The events for one watcher that it has not taken yet. More than `limit` of them end it."""

    def __init__(self, interest: Interest, limit: int) -> None:
        self.interest = interest
        self._limit = limit
        self._queue: deque[tuple[Page, EventRow]] = deque()
        self._arrived = asyncio.Event()
        self._overflowed = False
        self._closed = False

    def put(self, page: Page, event: EventRow) -> bool:
        """Add an event; False when that was too much, which is the end of this subscription."""
        if len(self._queue) >= self._limit:
            self._overflowed = True
            self._queue.clear()
        else:
            self._queue.append((page, event))
        self._arrived.set()
        return not self._overflowed

    def close(self) -> None:
        """End it: the server stops."""
        self._closed = True
        self._arrived.set()

    async def take(self) -> Sequence[tuple[Page, EventRow]]:
        """Wait for events and return all that are there.

        Raises:
            Overflow: the watcher was too slow.
            Unavailable: the server stops.
        """
        await self._arrived.wait()
        self._arrived.clear()
        if self._overflowed:
            raise Overflow
        if self._closed:
            raise Unavailable("the server is stopping")
        taken = tuple(self._queue)
        self._queue.clear()
        return taken
