"""The time. It is the database's, so that all servers on it have the same; tests bring their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from arcentra_server.db.engine import Tx

Clock = Callable[[Tx], Awaitable[datetime]]


async def database_time(tx: Tx) -> datetime:
    """Return the time by the clock of the database."""
    now: datetime = await tx.fetchval("SELECT clock_timestamp()")
    return now
