"""A clock that tests set, in place of the database's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from arcentra_server.db.engine import Tx


class FakeClock:
    """Shows what it was set to."""

    def __init__(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=UTC)

    async def __call__(self, _: Tx) -> datetime:
        return self.now

    def set(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=UTC)

    def go_on(self, **time: float) -> None:
        self.now += timedelta(**time)
