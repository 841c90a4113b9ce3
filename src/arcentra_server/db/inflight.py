"""What one call has handed to a batcher and not got back yet, bounded in number and bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

Result = TypeVar("Result")


class InFlight(Generic[Result]):
    """Takes results in the order in which their items were handed in; all of them when the block ends.

    When the block fails, what is left is committed all the same and its results are dropped.
    """

    def __init__(self, take: Callable[[Result], None], *, items: int = 8, size: int = 8 << 20) -> None:
        self._take = take
        self._most_items = items
        self._most_bytes = size
        self._size = 0
        self._pending: deque[tuple[asyncio.Future[Result], int]] = deque()

    async def __aenter__(self) -> InFlight[Result]:
        return self

    async def add(self, future: asyncio.Future[Result], size: int) -> None:
        """Add an item of `size` bytes; wait until there is room for another.

        Raises:
            Exception: that of an earlier item, which failed.
        """
        self._pending.append((future, size))
        self._size += size
        while len(self._pending) >= self._most_items or self._size >= self._most_bytes:
            await self._settle()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._pending:
                await self._settle()
        finally:
            for future, _ in self._pending:
                future.cancel()

    async def _settle(self) -> None:
        future, size = self._pending[0]
        result = await future
        self._pending.popleft()
        self._size -= size
        self._take(result)
