"""The database: a pool of connections, short transactions, and the one place that maps its errors."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal, Self
from uuid import UUID

import asyncpg

from arcentra_server.domain.errors import GivenUp, NoRoom, Unavailable, WriteConflict
from arcentra_server.domain.ids import ENTROPY_BYTES, uuid7

Tx = asyncpg.pool.PoolConnectionProxy
"""A connection inside a transaction, see `Database.statements` for another: what every query function takes first."""

Row = asyncpg.Record
"""A row as it was read; query modules turn it into a type of their own."""

_SETTINGS = {
    "application_name": "arcentra-server",
    # The queries of the hot path are short: compiling them costs more than running them.
    "jit": "off",
    "lock_timeout": "10s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
    "timezone": "UTC",
}
# Seconds that the database has for leaving a statement or a transaction that is given up. Else its connection ends, and
# with it the transaction: who gives up is not to wait for a database that hangs.
GRACE_SECONDS = 2.0
LOST = (
    OSError,
    asyncpg.InterfaceError,
    # A statement on a connection whose server said goodbye between two statements.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
)
"""Errors that say that the database, or a connection to it, is away, or has no room or time for anything."""

_CONFLICT = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)


def new_id() -> UUID:
    """Return a new UUIDv7 of now; ids made one after the other in a process sort in that order."""
    return uuid7(time.time_ns(), os.urandom(ENTROPY_BYTES))


class _Connection(asyncpg.Connection):
    """A connection that is not reset when it goes back to the pool: nothing here outlives its transaction."""

    def get_reset_query(self) -> str:
        return ""


class Database:
    """Connections to one PostgreSQL database. Use it as an async context manager."""

    def __init__(self, dsn: str, *, pool_size: int = 12) -> None:
        self._dsn = dsn
        self._pool_size = pool_size
        self._pool: asyncpg.Pool | None = None

    async def __aenter__(self) -> Self:
        try:
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=2,
                max_size=self._pool_size,
                init=_prepare,
                connection_class=_Connection,
                server_settings=_SETTINGS,
                command_timeout=60,
            )
        except LOST as error:
            raise Unavailable(f"cannot connect to the database: {error}") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def connect(self) -> asyncpg.Connection:
        """Open a connection beside the pool, for what has to stay on one; the caller closes it.

        Raises:
            Unavailable: the database is away.
        """
        try:
            return await asyncpg.connect(self._dsn, server_settings=_SETTINGS, timeout=20)
        except (*LOST, TimeoutError) as error:
            raise Unavailable(f"cannot connect to the database: {error}") from error

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False) -> AsyncIterator[Tx]:
        """Open a transaction: it commits when the block ends and rolls back when it raises, as it does when cancelled.

        Args:
            snapshot: Every query of the block sees the same moment (REPEATABLE READ, read only).

        Raises:
            Unavailable: the database is away. Whether a commit that was under way took effect is not known.
            WriteConflict: another writer was first; the block can be repeated.
        """
        isolation: Literal["repeatable_read", "read_committed"] = "repeatable_read" if snapshot else "read_committed"
        async with self.statements() as connection:
            transaction = connection.transaction(isolation=isolation, readonly=snapshot)
            try:
                await transaction.start()
                yield connection
            except BaseException:
                await _roll_back(transaction, connection)
                raise
            await transaction.commit()

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[Tx]:
        """Lend a connection on which each statement is a transaction of its own, committed when it returns.

        For what one statement does: it spares two round trips, which is what looking costs that finds nothing.

        Raises:
            Unavailable: the database is away. Whether the statement under way took effect is not known.
            GivenUp: it is there, and the statement took too long; NoRoom: more than there was of something.
            WriteConflict: another writer was first; the statement can be repeated.
        """
        pool = self._pool
        if pool is None:
            raise Unavailable("the database is closed")
        try:
            connection = await pool.acquire(timeout=20)
            try:
                yield connection
            finally:
                await _give_back(pool, connection)
        except _CONFLICT as error:
            raise WriteConflict("another change was first, please repeat") from error
        except asyncpg.InsufficientResourcesError as error:
            raise NoRoom("the database has no room") from error
        except asyncpg.QueryCanceledError as error:
            raise GivenUp("the database took too long") from error
        except (*LOST, TimeoutError) as error:
            raise Unavailable("the database is not reachable") from error


async def _prepare(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec("jsonb", encoder=_dumps, decoder=json.loads, schema="pg_catalog")


async def _roll_back(transaction: asyncpg.transaction.Transaction, connection: Tx) -> None:
    """Roll back for an error, which is what the caller learns of; where that takes too long the connection ends."""
    rolled_back = False
    try:
        with suppress(Exception):
            async with asyncio.timeout(GRACE_SECONDS):
                await transaction.rollback()
            rolled_back = True
    finally:
        if not rolled_back:
            with suppress(asyncpg.InterfaceError):  # it ended by itself
                connection.terminate()


async def _give_back(pool: asyncpg.Pool, connection: Tx) -> None:
    """Let others have a connection once its last statement has ended; where that takes too long the connection ends.

    Nothing of it is an error: what was done with the connection is done, and the pool opens another.
    """
    with suppress(Exception):
        await pool.release(connection, timeout=GRACE_SECONDS)


def _dumps(value: object) -> str:
    # PostgreSQL's jsonb has no NUL; checked at the edge, and replaced here so that a stray one cannot fail a batch.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("\\u0000", "\\ufffd")
