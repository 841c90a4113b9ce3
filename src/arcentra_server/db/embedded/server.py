"""Running the embedded PostgreSQL."""

import asyncio
import os
import signal
from asyncio.subprocess import Process
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg
import structlog

from arcentra_server.db.embedded.binaries import Binaries, find_binaries
from arcentra_server.db.embedded.cluster import ensure_cluster, read_password
from arcentra_server.db.embedded.dsn import build_dsn
from arcentra_server.db.embedded.errors import (
    DataDirUnusableError,
    EmbeddedPostgresError,
    NotRunningError,
    StartFailedError,
)
from arcentra_server.db.embedded.launch import Launcher, choose_launcher, send, spawn
from arcentra_server.db.embedded.layout import DATABASE, Layout
from arcentra_server.db.embedded.lock import DataDirLock
from arcentra_server.db.embedded.logfile import LogFile
from arcentra_server.db.embedded.options import server_options
from arcentra_server.db.embedded.postmaster import end_leftovers, read_pid_file
from arcentra_server.db.embedded.sockets import make_socket_dir, remove_socket_dir

_POLL_SECONDS = 0.02
_QUIT_SECONDS = 10.0
_RETRY_SECONDS = 0.2
# The interlocks of PostgreSQL itself: a server that an earlier process was just starting got ahead of us.
_BUSY = ('"postmaster.pid" already exists', "pre-existing shared memory block")
_log = structlog.get_logger(__name__)


class EmbeddedPostgres:
    """A PostgreSQL server on one data directory, a child of this process that ends with it.

    Use it as an async context manager, or call `start` and `stop`. After the server ended by itself (see `wait_exit`),
    `stop` and `start` bring it back, at the same address unless somebody took that.

    Args:
        data_dir: made if missing; parents are never changed.
        bindir: the programs to use, instead of those that are found.
        max_connections: of all users of the server together.
        start_timeout: seconds for a start, of which recovery after a crash may need many.
        stop_timeout: seconds for an orderly stop, before the server is told to drop everything.
        takeover_timeout: seconds to wait for a server that an earlier, killed process left behind.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        bindir: Path | None = None,
        max_connections: int = 60,
        start_timeout: float = 300.0,
        stop_timeout: float = 30.0,
        takeover_timeout: float = 60.0,
    ) -> None:
        self._layout = Layout.of(data_dir)
        self._bindir = bindir
        self._max_connections = max_connections
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._takeover_timeout = takeover_timeout
        self._log_file = LogFile(self._layout.log_file)
        self._lock: DataDirLock | None = None
        self._process: Process | None = None
        self._socket_dir: Path | None = None  # of the last start, also when that has ended

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        """The process id of the postmaster.

        Raises:
            NotRunningError: it is not started.
        """
        return self._running().pid

    def dsn(self, database: str = DATABASE) -> str:
        """The address of a database: `postgresql://user:password@/database?host=SOCKET_DIR&port=5432`.

        Raises:
            NotRunningError: the server is not started.
        """
        self._running()
        return build_dsn(read_password(self._layout), str(self._socket_dir), database)

    def log_tail(self) -> str:
        """The last lines (at most 4 KiB) that the server logged since its start."""
        return self._log_file.tail()

    async def start(self) -> None:
        """Start the server, on a new cluster if there is none, and create the database `arcentra` if it is missing.

        Call it on the main thread: the server ends with the thread that started it.

        Raises:
            DataDirInUseError: another process runs a server here.
            EmbeddedPostgresError: it did not come up; nothing is left running.
        """
        if self._lock is not None:
            raise EmbeddedPostgresError(f"the server of {self._layout.root} is already started")
        try:
            self._lock = DataDirLock.acquire(self._layout)
            async with asyncio.timeout(self._start_timeout):
                await self._bring_up()
        except BaseException as error:
            await self._take_down(signal.SIGQUIT)
            if isinstance(error, TimeoutError):
                raise self._start_failure(f"was not ready after {self._start_timeout:g} s") from error
            if isinstance(error, OSError):
                raise DataDirUnusableError(f"cannot use the data directory {self._layout.root}: {error}") from error
            raise

    async def stop(self) -> None:
        """End the server (clients are disconnected, what is committed stays) and free the data directory."""
        await self._take_down(signal.SIGINT)

    async def wait_exit(self) -> int:
        """Wait until the postmaster has ended; a supervisor cancels this before it calls `stop`.

        Returns:
            Its exit code, negative for the signal that killed it.

        Raises:
            NotRunningError: it is not started.
        """
        return await self._running().wait()

    def _running(self) -> Process:
        if self._process is None:
            raise NotRunningError(f"the server of {self._layout.root} is not started")
        return self._process

    async def _bring_up(self) -> None:
        binaries = await find_binaries(self._bindir)
        launcher = await choose_launcher(self._layout, binaries.bindir)
        await end_leftovers(self._layout.unfinished_cluster, within=self._takeover_timeout)
        await ensure_cluster(self._layout, binaries, launcher)
        launched = False
        while not launched:
            await end_leftovers(self._layout.cluster, within=self._takeover_timeout)
            launched = await self._launch(binaries, launcher)
            await asyncio.sleep(0 if launched else _RETRY_SECONDS)
        await self._create_database()
        _log.info("postgres_started", data_dir=str(self._layout.root), pid=self.pid, major=binaries.major)

    async def _launch(self, binaries: Binaries, launcher: Launcher) -> bool:
        """Start the postmaster and wait until it takes connections; False if a leftover server stands in its way."""
        self._socket_dir = make_socket_dir(self._layout, launcher, self._socket_dir)
        options = server_options(self._socket_dir, self._max_connections)
        argv = [str(binaries.postgres), "-D", str(self._layout.cluster), *options]
        log_fd = self._log_file.open()
        try:
            process = await spawn(launcher.command(argv, death_signal="INT"), output=log_fd)
        finally:
            os.close(log_fd)
        self._process = process
        while not self._ready(process):
            if process.returncode is not None:
                if any(sign in self.log_tail() for sign in _BUSY):
                    return False
                raise self._start_failure(f"ended with code {process.returncode}")
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    await process.wait()
            except TimeoutError:
                continue
        return True

    def _ready(self, process: Process) -> bool:
        noted = read_pid_file(self._layout.cluster)
        return noted is not None and noted.ready and noted.pid == process.pid

    def _start_failure(self, what: str) -> StartFailedError:
        return StartFailedError(
            f"PostgreSQL on {self._layout.cluster} {what}; "
            f"its log is {self._layout.log_file} and ends with:\n{self.log_tail() or '(nothing)'}"
        )

    async def _create_database(self) -> None:
        try:
            connection = await asyncpg.connect(self.dsn("postgres"))
            try:
                known = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
                if not await connection.fetchval(known, DATABASE):
                    await connection.execute(f'CREATE DATABASE "{DATABASE}"')
            finally:
                await connection.close()
        except (asyncpg.PostgresError, ConnectionError) as error:
            raise self._start_failure(f"is up, but the database {DATABASE} cannot be reached ({error})") from error

    async def _take_down(self, first: signal.Signals) -> None:
        """End the process, whatever it takes, and free what a start has taken. Does nothing if there is nothing."""
        process, self._process = self._process, None
        try:
            if process is not None:
                await self._end(process, first)
        finally:
            if self._lock is not None:
                remove_socket_dir(self._layout)
                self._lock.release()
                self._lock = None

    async def _end(self, process: Process, first: signal.Signals) -> None:
        """SIGINT is a fast shutdown; SIGQUIT drops everything, which the next start recovers from."""
        steps = [(first, self._stop_timeout), (signal.SIGQUIT, _QUIT_SECONDS)]
        try:
            for number, seconds in steps:
                send(process, number)
                try:
                    async with asyncio.timeout(seconds):
                        await process.wait()
                except TimeoutError:
                    _log.warning("postgres_stop_slow", pid=process.pid, signal=number.name, seconds=seconds)
                else:
                    return
            send(process, signal.SIGKILL)
            await process.wait()
        finally:
            send(process, signal.SIGQUIT)  # of use only if this was cancelled: nobody waits any longer
