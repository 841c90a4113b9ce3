"""Natural batching: everything that arrives while one commit runs shares the next.

No timers: idle traffic pays no delay, busy traffic shares the commit. The exception are items that are in no hurry:
after a commit they may wait a while for others. Items are committed in the order in which they came. When a batch fails
its items are committed one by one, so that one poisoned item never takes others down. When the database is away, all that
was handed in until that was known fails with it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

import structlog

from arcentra_server.domain.errors import ArcentraError, GivenUp, Unavailable
from arcentra_server.domain.traces import forget_traces

# Seconds after a commit that agents which come wait for others, in each of the steps in which they are let in but the
# look-up of their credential: a server that was away, or stops, has thousands of them at its door or at another's. That
# look-up is made for people too, who are not to wait as long: it has `LOOKUP_PAUSE`, in services/auth.py.
ARRIVAL_PAUSE = 0.05

Item = TypeVar("Item")
Result = TypeVar("Result")
Result_contra = TypeVar("Result_contra", contravariant=True)
Outcome = TypeVar("Outcome")


class Waiter(Protocol[Result_contra]):
    """Is told what became of an item, at once: all those of a batch within one turn of the loop. A future is one."""

    def done(self) -> bool:
        """Return whether it was told, or wants to be told no more."""
        ...

    def set_result(self, result: Result_contra, /) -> None:
        """Take the result of the item: it is committed."""
        ...

    def set_exception(self, exception: Exception, /) -> None:
        """Take why the item is not known to be committed."""
        ...


_log = structlog.get_logger()
_Pair = tuple[Item, Waiter[Result]]


class Batcher(Generic[Item, Result]):
    """Commits items in batches. `run` must be running, in a TaskGroup, for `submit` to resolve.

    Args:
        commit: Commits a batch, and returns its results in its order.
        largest: How many items a batch holds at most.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        largest: int = 2_000,
    ) -> None:
        self._commit = commit
        self._largest = largest
        self._committed_at = -math.inf
        # Of the one of those that wait which is in the greatest hurry; set when another comes that is in a greater one.
        self._pause = math.inf
        self._sooner = asyncio.Event()
        self._waiting: deque[_Pair[Item, Result]] = deque()
        self._arrived = asyncio.Event()
        self._closed = False

    def submit(self, item: Item, *, pause: float = 0.0) -> asyncio.Future[Result]:
        """Hand in one item; the future resolves once it is committed, or fails with its own error.

        `pause`: seconds after the last commit that it may wait for company.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.hand_in(item, future, pause=pause)
        return future

    def hand_in(self, item: Item, waiter: Waiter[Result], *, pause: float = 0.0) -> None:
        """Do as `submit`, for a waiter that needs no future and no turn of the loop to learn of it."""
        if self._closed:
            _refuse(waiter, Unavailable("the server is stopping"))
            return
        self._waiting.append((item, waiter))
        self._arrived.set()
        self._wait_at_most(pause)

    def hurry(self) -> None:
        """Let what was handed in wait for no company any more."""
        if self._waiting:
            self._wait_at_most(0.0)

    async def run(self) -> None:
        """Commit batches until `close` was called and everything that was handed in is resolved."""
        while True:
            while not self._waiting:
                if self._closed:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            await self._wait_for_company()
            size = min(len(self._waiting), self._largest)
            batch = [self._waiting.popleft() for _ in range(size)]
            self._pause = 0.0 if self._waiting else math.inf
            await self._settle(batch)
            del batch  # not to be kept until the next one comes
            self._committed_at = asyncio.get_running_loop().time()

    def close(self) -> None:
        """Take nothing more; `run` returns when it has committed the rest."""
        self._closed = True
        self._arrived.set()
        self.hurry()

    def _wait_at_most(self, pause: float) -> None:
        if pause < self._pause:
            self._pause = pause
            self._sooner.set()

    async def _wait_for_company(self) -> None:
        while (left := self._committed_at + self._pause - asyncio.get_running_loop().time()) > 0:
            self._sooner.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._sooner.wait()

    async def _settle(self, batch: Sequence[_Pair[Item, Result]], behind: Sequence[_Pair[Item, Result]] = ()) -> bool:
        """Commit a batch, or else its items one by one; answer False if the database was away.

        `behind`: what was in one batch with these, and is not tried any more then.
        """
        try:
            results = await self._commit([item for item, _ in batch])
        except Unavailable as error:
            self._give_up([*batch, *behind], error)
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to the callers, not to this loop
            if len(batch) == 1:
                if not isinstance(error, ArcentraError):
                    _log.error("item_not_committed", exc_info=error)
                _fail(batch, error)
                return True
            for index, pair in enumerate(batch):
                if not await self._settle([pair], batch[index + 1 :]):
                    return False
            return True
        for (_, waiter), result in zip(batch, results, strict=True):
            _tell(waiter, waiter.set_result, result)
        return True

    def _give_up(self, tried: Sequence[_Pair[Item, Result]], error: Unavailable) -> None:
        """Fail what was tried, and all that waits behind it if the database is away.

        Without a database nobody's item can be committed. One that hangs is only known to by a time limit: a try for each
        item, or batch, would make the last wait for as many of them. What comes from now on is tried, and what waits if
        the database is there: it may be what was tried that takes so long.
        """
        pairs = list(tried)
        if not isinstance(error, GivenUp):
            pairs += self._waiting
            self._waiting.clear()
            self._pause = math.inf
        _fail(pairs, error)


def _fail(pairs: Sequence[_Pair[Item, Result]], error: Exception) -> None:
    """Tell all of them of an error, without its traceback: a future keeps a copy, by which it would keep the items."""
    forget_traces(error)
    for _, waiter in pairs:
        if not waiter.done():
            _refuse(waiter, error)


def _refuse(waiter: Waiter[Result], error: Exception) -> None:
    _tell(waiter, waiter.set_exception, error)
    if isinstance(waiter, asyncio.Future) and not waiter.cancelled():
        # Looked at: who handed it in may have gone, as an agent whose channel has ended, and that is no fault to be logged.
        waiter.exception()


def _tell(waiter: Waiter[Result], tell: Callable[[Outcome], None], outcome: Outcome) -> None:
    if waiter.done():
        return
    try:
        tell(outcome)
    except Exception as error:  # noqa: BLE001 - one that cannot take it keeps nothing from the others
        asyncio.get_running_loop().call_exception_handler({"message": "an answer was not taken", "exception": error})
