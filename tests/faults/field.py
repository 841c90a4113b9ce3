"""One server on one database, simulated agents, clients that insist, and a checker at the end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from grpc import aio

from arcentra_server.db.engine import Database
from arcentra_server.domain.errors import ArcentraError
from arcentra_server.domain.identity import Role, TokenKind
from arcentra_server.installation import load_keys
from arcentra_server.services.auth import AuthService
from tests.faults.sizes import SCALE
from tests.support.fault_checker import check, happened
from tests.support.fault_evidence import Evidence
from tests.support.fault_history import History
from tests.support.postgres import REPOSITORY
from tests.support.processes import Sandbox, read_line
from tests.support.server import Client, Server, start_server
from tests.support.simagent.journal import Journal, boot_time

LEASE = 30.0 * SCALE
HEARTBEAT = 10.0 * SCALE
SAFE_LEASE = 120.0  # which no machine is too slow to renew, for rows in which no agent is to be lost
STALLED = 120.0  # seconds in which nothing happens, of something that is waited for
STARTED_WITHIN = 600.0  # a program
_POLL_SECONDS, _LOOK_SECONDS = 0.05, 1.0
_RECONNECT = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 300),
    ("grpc.max_reconnect_backoff_ms", 300),
)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Simulated agents in one process."""

    process: Process
    name: str
    folder: Path
    agents: int
    log: Path
    killed: list[bool] = field(default_factory=list)

    async def kill(self) -> None:
        """End the machine of these agents, and all that runs on it."""
        self.killed.append(True)
        os.kill(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        for number in range(self.agents):
            with closing(Journal(self.folder / f"{self.name}-{number}.jsonl")) as journal:
                journal.write("died", at=boot_time())

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


@dataclass
class Field:
    """See the module. `client` reaches the server whatever becomes of it; `chance` is drawn from the seed.

    `source`: what the server is run from instead of `src`, see `start_server`.
    """

    sandbox: Sandbox
    dsn: str
    seed: int
    database: Database = field(init=False)
    lease: float = LEASE
    heartbeat: float = HEARTBEAT
    source: Path | None = None
    history: History = field(default_factory=History)
    fleets: list[Fleet] = field(default_factory=list)
    _server: Server | None = None
    _client: Client | None = None
    _token: str = ""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)  # noqa: S311 - it is to be the same again

    @classmethod
    @asynccontextmanager
    async def on(cls, root: Path, dsn: str, seed: int) -> AsyncIterator[Self]:
        """An installation below `root`. No `dsn`: on the embedded database; `database` is then for the test to set."""
        async with AsyncExitStack() as stack:
            sandbox = Sandbox(root)
            stack.push_async_callback(sandbox.close)
            made = cls(sandbox, dsn, seed)
            stack.push_async_callback(made._disconnect)
            if dsn:
                made.database = await stack.enter_async_context(Database(dsn, pool_size=2))
            yield made

    async def _disconnect(self) -> None:
        if self._client is not None:
            await self._client.channel.close()

    @property
    def server(self) -> Server:
        assert self._server is not None
        return self._server

    @property
    def client(self) -> Client:
        assert self._client is not None
        return self._client

    @property
    def journals(self) -> Path:
        return self.sandbox.root / "journals"

    async def serve(self, *, crash_at: str = "") -> Server:
        """Start the server, the first time or again at its address; `crash_at`: where it is to die.

        Raises:
            ServerFailed: it died before it was ready.
        """
        settings = {
            "ARCENTRA_AGENTS__LEASE_SECONDS": str(self.lease),
            "ARCENTRA_AGENTS__HEARTBEAT_SECONDS": str(self.heartbeat),
            "ARCENTRA_GRPC__DRAIN_SECONDS": "2",
            **self.sandbox.settings,
        }
        if crash_at:
            settings["ARCENTRA_CRASHPOINT"] = crash_at
        self._server = await start_server(
            self.sandbox.data_dir,
            *(("--database-url", self.dsn) if self.dsn else ()),
            grpc=self._server.grpc if self._server else "127.0.0.1:0",
            env={**self.sandbox.env, **settings},
            source=self.source,
        )
        self.sandbox._others.append(self._server.process)
        if self._client is None:
            channel = aio.insecure_channel(self._server.grpc, options=_RECONNECT)
            self._client = Client(channel, self._server.token)
        return self._server

    async def kill(self) -> None:
        """Kill the server, unless it is dead."""
        if self.server.process.returncode is None:
            await self.server.kill()

    async def agents(
        self, number: int, name: str = "sim", *, pulling: int = 0, address: str = "", options: Sequence[str] = ()
    ) -> Fleet:
        """Start agents in a process of their own; the same name again brings the same agents back."""
        process = await self.sandbox.spawn(
            "python",
            *("-m", "tests.support.simagent", "--server", address or self.server.grpc, "--name", name),
            *("--journal", str(self.journals), "--agents", str(number), "--pulling", str(pulling)),
            *("--seed", str(self.seed), "--lease", str(self.lease), "--heartbeat", str(self.heartbeat), *options),
            env={"PYTHONPATH": str(REPOSITORY), "ARCENTRA_SIM_TOKEN": await self.token()},
            stderr=self.sandbox.root / f"{name}.log",
        )
        await read_line(process, "ready", within=STARTED_WITHIN)
        fleet = Fleet(process, name, self.journals, number, self.sandbox.root / f"{name}.log")
        self.fleets.append(fleet)
        return fleet

    async def token(self) -> str:
        """Return a registration token; made as the server's command makes it, which takes seconds."""
        if not self._token:
            auth = AuthService(self.database, (await load_keys(self.database)).tokens)
            self._token = await auth.issue(TokenKind.REGISTRATION, "any", Role.AGENT)
        return self._token

    async def check(self) -> Evidence:
        """Wait until all is quiet, and fail with every promise that is broken."""
        self._describe()
        for fleet in self.fleets:
            assert fleet.killed or fleet.process.returncode is None, f"agents ended: {fleet.log.read_text()[-2000:]}"
        return await check(self.database, self.journals, self.history)

    def _describe(self) -> None:
        """Leave what clients asked for beside the journals, for whoever looks into a failure."""
        lines = [json.dumps([c.what, c.subject, c.begun, c.answered, c.refused, c.tries]) for c in self.history.calls]
        (self.sandbox.root / "history.jsonl").write_text("\n".join(lines) + "\n")

    async def value(self, query: str, *values: object) -> object:
        async with self.database.transaction() as tx:
            return await tx.fetchval(query, *values)

    async def until(self, probe: Callable[[], Awaitable[Any]]) -> Any:
        """Ask again and again until the answer is true, as long as anything goes on, and return it.

        Raises:
            TimeoutError: nothing has happened for STALLED seconds.
        """
        loop = asyncio.get_running_loop()
        last, since, looked = None, loop.time(), loop.time()
        while not (answer := await probe()):
            await asyncio.sleep(_POLL_SECONDS)
            if loop.time() < looked + _LOOK_SECONDS:
                continue
            looked = loop.time()
            with suppress(ArcentraError):  # the database is coming back
                if (now := await happened(self.database)) != last:
                    last, since = now, looked
            if looked > since + STALLED:
                raise TimeoutError(f"nothing has happened for {STALLED} s")
        return answer

    async def pause(self, shortest: float, longest: float) -> None:
        """Let a random time pass: faults come at any moment."""
        await asyncio.sleep(self.chance.uniform(shortest, longest))
