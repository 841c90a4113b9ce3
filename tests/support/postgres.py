"""Real PostgreSQL for tests: databases cloned from a migrated template, and servers in processes of their own.

`python -m tests.support.postgres DATA_DIR` runs a server as a process would: it prints one line of JSON (`pid` and `dsn`,
or `error` and `message`) and stops when its standard input closes.
"""

import asyncio
import itertools
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import asyncpg

from arcentra_server.db.embedded import EmbeddedPostgres, EmbeddedPostgresError

REPOSITORY = Path(__file__).parents[2]
BINDIR_VARIABLE = "ARCENTRA_TEST_PG_BINDIR"
_TEMPLATE = "arcentra_template"
_LARGEST_KEPT = 64 * 2**20
# Rows go without regard to what refers to them; no table but that of the migrations has any in the template.
_DELETE_ALL = """
    SELECT string_agg(format('DELETE FROM %I', tablename), ';') FROM pg_tables
    WHERE schemaname = 'public' AND tablename <> 'alembic_version'
"""
_RESTART = "SELECT setval(format('%I.%I', schemaname, sequencename), start_value, false) FROM pg_sequences"
_CUT_OFF = (
    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"
)
# What is emptied has the schema of before: who changes that says so here, instead of in the next test.
_KEEP_THE_SCHEMA = """
    CREATE SCHEMA lent;
    CREATE FUNCTION lent.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE 'other tests get this database after you: change the schema of a Databases.clone()'; END $$;
    CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION lent.refuse();
"""


def chosen_bindir() -> Path | None:
    """The programs the suite shall run on, if the environment names some: a run for each supported version."""
    value = os.environ.get(BINDIR_VARIABLE)
    return Path(value) if value else None


class Databases:
    """Empty, migrated databases on one server: copies of a template, or one that was emptied again (a tenth of the time)."""

    def __init__(self, server: EmbeddedPostgres, admin: asyncpg.Connection) -> None:
        self._server = server
        self._admin = admin
        self._numbers = itertools.count(1)
        self._unused: list[str] = []

    @classmethod
    @asynccontextmanager
    async def on(cls, server: EmbeddedPostgres) -> AsyncIterator[Self]:
        """Migrate the template and offer copies of it."""
        from arcentra_server.db.migrate import upgrade  # noqa: PLC0415 - only tests that need a schema pay for alembic

        admin = await asyncpg.connect(server.dsn("postgres"))
        try:
            await admin.execute(f"CREATE DATABASE {_TEMPLATE}")
            await upgrade(server.dsn(_TEMPLATE))
            # A template with a connection cannot be copied; this way a leaked one shows at once.
            await admin.execute(f"ALTER DATABASE {_TEMPLATE} WITH ALLOW_CONNECTIONS false")
            yield cls(server, admin)
        finally:
            await admin.close()

    @asynccontextmanager
    async def clone(self) -> AsyncIterator[str]:
        """The address of a database that lives as long as the context."""
        name = await self._create()
        try:
            yield self._server.dsn(name)
        finally:
            await self._drop(name)

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[str]:
        """The address of a database that is used again, without its rows, when the context has ended."""
        if self._unused:
            name = self._unused.pop()
        else:
            name = await self._create()
            async with connected(self._server.dsn(name)) as connection:
                await connection.execute(_KEEP_THE_SCHEMA)
        try:
            yield self._server.dsn(name)
        finally:
            await self._admin.fetch(_CUT_OFF, name)
            if await self._admin.fetchval("SELECT pg_database_size($1)", name) > _LARGEST_KEPT:
                await self._drop(name)
            else:
                await self._empty(name)
                self._unused.append(name)

    async def _create(self) -> str:
        name = f"test_{next(self._numbers)}"
        await self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY wal_log")
        return name

    async def _empty(self, name: str) -> None:
        async with connected(self._server.dsn(name)) as connection, connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute(await connection.fetchval(_DELETE_ALL))
            await connection.execute(_RESTART)

    async def _drop(self, name: str) -> None:
        await self._admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that is cut at the end: the server may be dead by then."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        connection.terminate()


@dataclass(frozen=True)
class ServerProcess:
    """A process that runs an embedded server, and what it said of it."""

    process: Process
    report: Mapping[str, str | int]

    @property
    def postmaster(self) -> int:
        return int(self.report["pid"])

    @property
    def dsn(self) -> str:
        return str(self.report["dsn"])

    async def stop(self) -> None:
        """Ask it to stop in order, and wait for it."""
        await self.process.communicate(b"")


@asynccontextmanager
async def server_process(data_dir: Path, *, prefix: Sequence[str] = ()) -> AsyncIterator[ServerProcess]:
    """Run a server on `data_dir` in a process of its own; nothing of it is left at the end, whatever happens.

    `prefix` is a command that runs the rest of its arguments.
    """
    process = await asyncio.create_subprocess_exec(
        *(*prefix, sys.executable, "-W", "error", "-m", __name__, str(data_dir)),
        stdin=PIPE,
        stdout=PIPE,
        cwd=REPOSITORY,
    )
    try:
        assert process.stdout is not None
        server = ServerProcess(process, json.loads(await process.stdout.readline() or b"{}"))
        if "pid" not in server.report:
            yield server
            return
        with watched(server.postmaster) as ended:
            try:
                yield server
            finally:
                with suppress(ProcessLookupError):
                    os.kill(server.postmaster, signal.SIGCONT)
                    os.kill(server.postmaster, signal.SIGQUIT)
                await ended
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@contextmanager
def watched(pid: int) -> Iterator[asyncio.Future[None]]:
    """A future that is done when the process, which need not be our child, has ended."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    fd = os.pidfd_open(pid)

    def end() -> None:
        loop.remove_reader(fd)
        ended.set_result(None)

    loop.add_reader(fd, end)
    try:
        yield ended
    finally:
        loop.remove_reader(fd)
        os.close(fd)


async def _main(data_dir: Path) -> None:
    try:
        async with EmbeddedPostgres(data_dir, bindir=chosen_bindir()) as server:
            _say(pid=server.pid, dsn=server.dsn())
            await asyncio.to_thread(sys.stdin.read)
    except EmbeddedPostgresError as error:
        _say(error=type(error).__name__, message=str(error))


def _say(**report: str | int) -> None:
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    import logging

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # stdout is the report's
    asyncio.run(_main(Path(sys.argv[1])))
