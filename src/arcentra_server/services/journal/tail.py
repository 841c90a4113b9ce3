"""The one reader of the journal in this process, and how what it reads reaches those who watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from uuid import UUID

from arcentra_server.db import events
from arcentra_server.db.engine import Database
from arcentra_server.db.events import EventRow, Snapshot
from arcentra_server.domain.errors import Unavailable
from arcentra_server.services.journal.gaps import Gaps
from arcentra_server.services.journal.subscription import Interest, Page, Subscription

_POLL_SECONDS = 1.0
_GAP_SECONDS = 0.01


class Journal:
    """Reads what is new, in order and without gaps, and hands each event to the subscriptions that want it.

    It reads only while somebody watches. Drive it by `run_once` and then `wait`, for ever.

    Args:
        database: Where the journal is.
        page: Events that are read at once.
        limit: Events that a watcher may be behind before its subscription ends.
    """

    def __init__(self, database: Database, *, page: int = 1_000, limit: int = 1_000) -> None:
        self.database = database
        self._page = page
        self._limit = limit
        self._gaps: Gaps | None = None
        self._ready = asyncio.Event()
        self._woken = asyncio.Event()
        self._readers = 0
        self._closed = False
        self._behind = False
        self._by_run: dict[UUID, set[Subscription]] = {}
        self._of_any: set[Subscription] = set()

    def wake(self) -> None:
        """Hint that events were committed. A lost hint costs a second, never an event."""
        self._woken.set()

    async def wait(self) -> None:
        """Wait until it is worth to `run_once` again."""
        if self._behind:
            return
        gap = self._gaps is not None and self._gaps.is_open
        with suppress(TimeoutError):
            async with asyncio.timeout(_GAP_SECONDS if gap else _POLL_SECONDS):
                await self._woken.wait()

    async def run_once(self) -> None:
        """Read and tell what is new.

        Raises:
            Unavailable: the database is away; the next call goes on where this one was.
        """
        self._woken.clear()
        self._behind = False
        if not self._readers:
            self._gaps = None
            self._ready.clear()
            return
        if self._gaps is None:
            self._gaps = await self._start()
        async with self.database.transaction(snapshot=True) as tx:
            moment = await events.snapshot(tx)
            position = self._gaps.position
            visible = await events.read_after(tx, position, self._page) if position is not None else []
        if position is None:
            self._gaps.begin(moment)
            if self._gaps.position is not None:
                self._ready.set()
            return
        if self._gaps.needs_bound(visible, moment):
            moment = await self._bounded(moment)
        self._tell(self._gaps.settle(visible, moment))
        self._behind = len(visible) == self._page and not self._gaps.is_open

    async def _start(self) -> Gaps:
        async with self.database.transaction(snapshot=True) as tx:
            moment, last = await events.snapshot(tx), await events.last_id(tx)
        return Gaps(last, await self._bounded(moment))

    async def _bounded(self, moment: Snapshot) -> Snapshot:
        """Return a moment with a bound above every transaction that had a number by then."""
        async with self.database.transaction() as tx:
            return replace(moment, xmax=await events.new_transaction_number(tx))

    def close(self) -> None:
        """End all streams: the server stops."""
        self._closed = True
        self._ready.set()
        for subscription in self._subscriptions():
            subscription.close()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Keep the journal read while the block runs, which begins when `position` is known.

        Raises:
            Unavailable: the server stops.
        """
        self._readers += 1
        self._woken.set()
        try:
            await self._ready.wait()
            self._check_open()
            yield
        finally:
            self._readers -= 1

    @property
    def position(self) -> int:
        """The id up to which nothing can appear any more and everything was told. Only while `reading`."""
        position = self._gaps.position if self._gaps else None
        if position is None:
            raise Unavailable("the journal is not read")
        return position

    @contextmanager
    def subscribed(self, interest: Interest) -> Iterator[Subscription]:
        """Collect what comes after the present position."""
        self._check_open()
        subscription = Subscription(interest, self._limit)
        if interest.scope.run_ids is None:
            self._of_any.add(subscription)
        for run_id in interest.scope.run_ids or ():
            self._by_run.setdefault(run_id, set()).add(subscription)
        try:
            yield subscription
        finally:
            self._drop(subscription)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the server is stopping")

    def _tell(self, settled: Sequence[EventRow]) -> None:
        page = Page(self.database)
        for event in settled:
            wanting = [subscription for subscription in self._candidates(event) if subscription.interest.covers(event)]
            if wanting:
                page.add(event)
            for subscription in wanting:
                if not subscription.put(page, event):
                    self._drop(subscription)

    def _candidates(self, event: EventRow) -> Iterable[Subscription]:
        bound = self._by_run.get(event.run_id) if event.run_id else None
        return self._of_any | bound if bound else self._of_any

    def _subscriptions(self) -> set[Subscription]:
        return self._of_any.union(*self._by_run.values())

    def _drop(self, subscription: Subscription) -> None:
        self._of_any.discard(subscription)
        for run_id in subscription.interest.scope.run_ids or ():
            bound = self._by_run.get(run_id)
            if bound is not None:
                bound.discard(subscription)
                if not bound:
                    del self._by_run[run_id]
