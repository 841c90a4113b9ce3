"""Commits of a database, as its PostgreSQL counts them."""

import asyncio
import time
from dataclasses import dataclass
from typing import Self

import asyncpg

from benchmarks.harness.subjects import Subject

# A session reports its commits at most once a second, and what is left when it has been idle for ten.
SETTLE_SECONDS = 11.0


@dataclass(frozen=True, slots=True)
class Commits:
    """Commits until a moment, in `time.monotonic` seconds; those of reading transactions count too."""

    count: int
    at: float

    @classmethod
    async def read(cls, subject: Subject) -> Self:
        """Read the counter: what sessions committed within the last second may be missing."""
        connection = await asyncpg.connect(subject.dsn)
        try:
            count = await connection.fetchval(
                "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
            )
        finally:
            await connection.close()
        return cls(count, time.monotonic())

    @classmethod
    async def settled(cls, subject: Subject) -> Self:
        """Read the counter once every session that has nothing to do has reported."""
        await asyncio.sleep(SETTLE_SECONDS)
        return await cls.read(subject)

    def rate_since(self, earlier: "Commits") -> float:
        """Commits a second since an earlier reading."""
        return (self.count - earlier.count) / (self.at - earlier.at)
