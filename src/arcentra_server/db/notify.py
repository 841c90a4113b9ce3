"""Hints between the servers of one database, by LISTEN and NOTIFY.

A hint says that there may be something to look at; what there is, the database says. One that is lost costs the second
until everybody looks anyway. Hints are sent outside of transactions, as a NOTIFY makes commits wait for each other, and
those that come up at the same time are sent as one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import StrEnum

import asyncpg
import structlog

from arcentra_server.db.engine import LOST, Database, new_id
from arcentra_server.domain.errors import Unavailable

CHANNEL = "arcentra_hints"
LEAST_SECONDS = 0.1  # between two notifications of a server: ten a second at most
PING_SECONDS = 15.0  # a connection that does not answer by then is given up
AGAIN_SECONDS = 1.0
_log = structlog.get_logger()


class Hint(StrEnum):
    """What there may be to look at."""

    WORK = "work"  # a run, an agent, labels: something that a scheduler does not know
    CHANGE = "change"  # something was committed that streams tell
    ORDER = "order"  # a cancellation or a lease for an agent that holds no channel to the process that gave it
    KEYS = "keys"  # a concurrency key was taken or given back


class Hints:
    """Sends hints to the other servers of a database, and hands on theirs.

    Args:
        database: The database.
        wakes: What to call for a hint of another server, by its kind.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        database: Database,
        wakes: Mapping[Hint, Iterable[Callable[[], None]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._wakes = {hint: tuple(calls) for hint, calls in wakes.items()}
        self._clock = clock
        self._me = new_id().hex
        self._pending: dict[Hint, None] = {}
        self._raised = asyncio.Event()
        self._sent_at = -LEAST_SECONDS

    def give(self, hint: Hint) -> None:
        """Note a hint for the others; it goes out within a tenth of a second."""
        self._pending[hint] = None
        self._raised.set()

    async def wait(self) -> None:
        """Return when there is a hint to send."""
        await self._raised.wait()

    async def run_once(self) -> None:
        """Send what was given, as one notification.

        Raises:
            Unavailable: the database is away; the hints are dropped, as everybody looks anyway.
        """
        if not self._pending:
            return
        pause = self._sent_at + LEAST_SECONDS - self._clock()
        if pause > 0:
            await asyncio.sleep(pause)
        self._raised.clear()
        kinds, self._pending = ",".join(self._pending), {}
        self._sent_at = self._clock()
        async with self._database.statements() as tx:
            await tx.execute("SELECT pg_notify($1, $2)", CHANNEL, f"{self._me} {kinds}")

    async def listen(self) -> None:
        """Hand on the hints of others until cancelled, over a connection of its own that is opened again when it ends."""
        while True:
            try:
                await self._hold_connection()
            except (*LOST, asyncpg.PostgresError, Unavailable, TimeoutError) as error:
                _log.warning("hints_not_heard", error=str(error) or type(error).__name__, action="connecting again")
            await asyncio.sleep(AGAIN_SECONDS)

    async def _hold_connection(self) -> None:
        ended = asyncio.Event()
        connection = await self._database.connect()
        try:
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(CHANNEL, self._heard)
            self._wake(Hint)  # what was said while nobody listened
            while not ended.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(PING_SECONDS):
                        await ended.wait()
                if not ended.is_set():
                    await connection.execute("SELECT 1", timeout=PING_SECONDS)
        finally:
            connection.terminate()

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        sender, _, kinds = str(payload).partition(" ")
        if sender != self._me:
            known = {hint.value: hint for hint in Hint}
            self._wake(known[kind] for kind in kinds.split(",") if kind in known)

    def _wake(self, hints: Iterable[Hint]) -> None:
        for call in dict.fromkeys(call for hint in hints for call in self._wakes.get(hint, ())):
            call()
