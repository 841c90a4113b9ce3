"""Rows that cannot be dealt with: each on its own, so that none keeps a loop from the others."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import structlog

from arcentra_server.db.engine import Tx
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.domain.errors import Unavailable, WriteConflict
from arcentra_server.domain.ledger import Ledger

MOST_FAILURES = 3  # in a row, then a row is passed over for a while
REST_SECONDS = 600.0
Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")
_log = structlog.get_logger()


class BadRows:
    """What of a loop failed, and what is therefore passed over; in memory, as another server may know better.

    Args:
        loop: The loop, for the log.
        clock: Seconds, monotonic.
    """

    def __init__(self, loop: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._failures: dict[Hashable, tuple[int, float]] = {}

    def passed_over(self, rows: Iterable[Key]) -> list[Key]:
        """Return those of these rows that are left alone for now."""
        return [row for row in rows if self._rests(row)]

    def all_passed_over(self) -> list[Hashable]:
        """Return all rows that are left alone for now."""
        return self.passed_over(self._failures)

    def failed(self, row: Hashable, error: Exception) -> None:
        """Note that a row could not be dealt with. That another writer was first is no fault of a row."""
        now = self._clock()
        # Rows that are gone would be kept for ever.
        self._failures = {key: one for key, one in self._failures.items() if now - one[1] < 2 * REST_SECONDS}
        times = self._failures.get(row, (0, now))[0] + (not isinstance(error, WriteConflict))
        self._failures[row] = (times, now)
        _log.warning("row_failed", loop=self._loop, row=str(row), in_a_row=times, exc_info=error)

    def went_well(self, rows: Iterable[Hashable]) -> None:
        """Forget that rows failed before."""
        for row in rows:
            self._failures.pop(row, None)

    async def each(
        self, store: ExecutionStore, rows: Sequence[Key], act: Callable[[Tx, Ledger, Sequence[Key]], Awaitable[Answer]]
    ) -> tuple[list[Answer], dict[Key, Exception]]:
        """Deal with rows in one change; when that fails, with each of them in a change of its own.

        Returns:
            What the changes answered, and what kept which row from being dealt with.

        Raises:
            Unavailable: the database is away.
        """
        rows = [row for row in rows if not self._rests(row)]
        try:
            answers = [await store.change(lambda tx, ledger: act(tx, ledger, rows))] if rows else []
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - handed back, with those of the others
            if len(rows) == 1:
                self.failed(rows[0], error)
                return [], {rows[0]: error}
        else:
            self.went_well(rows)
            return answers, {}
        errors: dict[Key, Exception] = {}
        answers = []
        for row in rows:
            one, failed = await self.each(store, [row], act)
            answers += one
            errors |= failed
        return answers, errors

    def _rests(self, row: Hashable) -> bool:
        times, last = self._failures.get(row, (0, 0.0))
        return times >= MOST_FAILURES and self._clock() - last < REST_SECONDS
