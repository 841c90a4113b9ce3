"""The two kinds of programs that are measured: the real server and limit programs."""

import asyncio
import contextlib
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import asyncpg

from arcentra_server.db.embedded import running_dsn
from benchmarks.harness.cpu import read_process
from benchmarks.harness.processes import ProcessFailedError, output_of, read_ready, started

REGISTRATIONS = 100_000
PROGRAM = str(Path(sys.executable).parent / "arcentra-server")
LISTEN = ("--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")


@dataclass(frozen=True, slots=True)
class Replica:
    """A further server on the same database."""

    target: str
    pid: int


@dataclass(frozen=True, slots=True)
class Subject:
    """A running program under measurement. `succeeded` is the SQL condition on `step_runs` for a finished step run."""

    target: str
    dsn: str
    pid: int
    postmaster: int
    admin_token: str
    registration_token: str
    succeeded: str
    work_dir: Path
    # The server itself, measured with another load as the limit of this scenario.
    is_limit: bool = False
    replicas: tuple[Replica, ...] = ()

    @property
    def targets(self) -> str:
        """Where agents connect to, with commas between: each server gets its share of them."""
        return ",".join([self.target, *(replica.target for replica in self.replicas)])

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes of all servers."""
        return (self.pid, *(replica.pid for replica in self.replicas))


class Side(Protocol):
    """Starts a subject in an empty directory, and stops it at the end of the context."""

    def __call__(self, work_dir: Path) -> AbstractAsyncContextManager[Subject]: ...


async def postmaster_of(dsn: str) -> int:
    """Process id of the PostgreSQL server behind a DSN: the parent of every one of its sessions.

    Raises:
        LookupError: PostgreSQL does not run on this machine, so its CPU cannot be told.
    """
    connection = await asyncpg.connect(dsn)
    try:
        session = read_process(await connection.fetchval("SELECT pg_backend_pid()"))
    finally:
        await connection.close()
    if session is None:
        raise LookupError("PostgreSQL is not on this machine")
    return session.parent


def embedded_dsn(data_dir: Path) -> str:
    """DSN of the embedded PostgreSQL of a program that is ready.

    Raises:
        ProcessFailedError: it runs none.
    """
    dsn = running_dsn(data_dir)
    if dsn is None:
        raise ProcessFailedError("no PostgreSQL runs in the data directory")
    return dsn


@contextlib.asynccontextmanager
async def ready_program(
    argv: list[str], log: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Process, str]]:
    """Run a program that prints a ready line; answers the process and its gRPC address."""
    async with started(argv, log, environment) as process:
        ready = await read_ready(process, log)
        yield process, ready["grpc"]


@contextlib.asynccontextmanager
async def real_server(work_dir: Path) -> AsyncIterator[Subject]:
    """`arcentra-server serve` with its defaults, over its embedded PostgreSQL."""
    data_dir, log = work_dir / "data", work_dir / "server.log"
    async with ready_program([PROGRAM, "serve", "--data-dir", str(data_dir), *LISTEN], log) as (process, target):
        limits = ["--max-uses", str(REGISTRATIONS), "--ttl", "1h"]
        token = await output_of([PROGRAM, "registration-token", "create", "--data-dir", str(data_dir), *limits], log)
        dsn = embedded_dsn(data_dir)
        yield Subject(
            target=target,
            dsn=dsn,
            pid=process.pid,
            postmaster=await postmaster_of(dsn),
            admin_token=(await asyncio.to_thread((data_dir / "admin.token").read_text)).strip(),
            registration_token=token,
            succeeded="status = 'SUCCESS'",
            work_dir=work_dir,
        )


@contextlib.asynccontextmanager
async def itself(work_dir: Path) -> AsyncIterator[Subject]:
    """The real server as the limit: the scenario gives it the load that the other is compared with."""
    async with real_server(work_dir) as subject:
        yield replace(subject, is_limit=True)


@contextlib.asynccontextmanager
async def two_servers(work_dir: Path) -> AsyncIterator[Subject]:
    """The real server, and a second one with a data directory of its own on the database of the first."""
    async with real_server(work_dir) as subject:
        data_dir, log = work_dir / "second", work_dir / "second.log"
        key = {"ARCENTRA_SECRETS__KEY_FILE": str(work_dir / "data" / "secrets.key")}
        argv = [PROGRAM, "serve", "--data-dir", str(data_dir), "--database-url", subject.dsn, *LISTEN]
        async with ready_program(argv, log, key) as (process, target):
            yield replace(subject, replicas=(Replica(target, process.pid),))


def limit_program(module: str) -> Side:
    """A module of `benchmarks.limits` as a side of a scenario."""

    @contextlib.asynccontextmanager
    async def side(work_dir: Path) -> AsyncIterator[Subject]:
        data_dir, log = work_dir / "data", work_dir / "limit.log"
        argv = [sys.executable, "-m", f"benchmarks.limits.{module}", "--data-dir", str(data_dir)]
        async with ready_program(argv, log) as (process, target):
            dsn = embedded_dsn(data_dir)
            yield Subject(
                target=target,
                dsn=dsn,
                pid=process.pid,
                postmaster=await postmaster_of(dsn),
                admin_token="",
                registration_token="",
                succeeded="status = 4",
                work_dir=work_dir,
            )

    return side
