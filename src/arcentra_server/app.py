"""The composition root: builds every part, owns the one TaskGroup, and the order in which things end."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import structlog

from arcentra_server.config import Config
from arcentra_server.crashpoint import crashpoint
from arcentra_server.db.bell import WorkBell
from arcentra_server.db.embedded import EmbeddedPostgres, EmbeddedPostgresError
from arcentra_server.db.engine import Database
from arcentra_server.db.execution_store import ExecutionStore
from arcentra_server.db.new_runs import SelectorIds
from arcentra_server.db.notify import Hint, Hints
from arcentra_server.db.run_starter import RunStarter
from arcentra_server.db.vault import Vault
from arcentra_server.domain.secret_box import KeyRing
from arcentra_server.domain.standing import Settings
from arcentra_server.installation import (
    ADMIN_TOKEN_FILE,
    InstallationError,
    Keys,
    database_url,
    load_key_ring,
    load_keys,
    write_private,
)
from arcentra_server.loops.runner import Loop
from arcentra_server.metrics import Metrics
from arcentra_server.notify_process import NotifyProcesses, NotifySettings
from arcentra_server.rpc.channels import AgentChannels
from arcentra_server.rpc.convert.dispatch import WireForm
from arcentra_server.rpc.parts import AgentParts
from arcentra_server.rpc.server import RpcServer
from arcentra_server.rpc.servicers.admin import AdminServicer
from arcentra_server.rpc.servicers.agent import AgentServicer
from arcentra_server.rpc.servicers.gateway import GatewayServicer
from arcentra_server.rpc.servicers.pipeline import PipelineServicer
from arcentra_server.rpc.servicers.step_run import StepRunServicer
from arcentra_server.rpc.servicers.stream import StreamServicer
from arcentra_server.services.agent_events import AgentEventService
from arcentra_server.services.agents import AgentService
from arcentra_server.services.approvals import ApprovalService
from arcentra_server.services.arrivals import ArrivalService
from arcentra_server.services.auth import AuthService
from arcentra_server.services.concurrency import ConcurrencyService
from arcentra_server.services.cron import CronService
from arcentra_server.services.dispatch import DispatchService
from arcentra_server.services.explain import ExplainService
from arcentra_server.services.fleet import FleetService
from arcentra_server.services.hooks import HookService
from arcentra_server.services.journal import Journal
from arcentra_server.services.logs import LogService
from arcentra_server.services.notifier import Notifier
from arcentra_server.services.orders import OrderService
from arcentra_server.services.pipelines import PipelineService
from arcentra_server.services.reaper import Reaper
from arcentra_server.services.reports import ReportService
from arcentra_server.services.runs import RunService
from arcentra_server.services.secrets import SecretService
from arcentra_server.services.step_runs import StepRunService
from arcentra_server.services.triggers import TriggerService
from arcentra_server.services.watchdog import Watchdog
from arcentra_server.services.webhooks import WebhookService
from arcentra_server.web.http import HttpServer, make_app
from arcentra_server.web.webhooks import routes as webhook_routes

WATCHDOG_SECONDS = 30.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ready:
    """What is told when the server listens. `first_start`: it made the administrator's token just now."""

    grpc: str
    http: str
    admin_token_file: Path
    first_start: bool


async def run(config: Config, stop: asyncio.Event, ready: Callable[[Ready], Coroutine[Any, Any, None]]) -> None:
    """Run the server until `stop` is set.

    Args:
        config: The configuration.
        stop: Set it to let the server drain and end.
        ready: Awaited once when the server listens; the server runs meanwhile.

    Raises:
        EmbeddedPostgresError: the embedded database cannot be started.
        InstallationError: it ended, and could not be brought back.
        InstallationError: an address to listen on is taken.
        InstallationError: the file with the keys of secrets cannot be used.
    """
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    key_ring = load_key_ring(config)
    async with (
        database_url(config) as (dsn, embedded),
        Database(dsn, pool_size=config.database.pool_size) as database,
    ):
        await _Server(config, database, embedded, await load_keys(database), key_ring).run(stop, ready)


class _Batching(Protocol):
    """A service that does together what comes together: it runs until it is closed."""

    async def run(self) -> None: ...

    def close(self) -> None: ...


class _Server:
    """Everything between the database and the two listeners."""

    def __init__(
        self, config: Config, database: Database, embedded: EmbeddedPostgres | None, keys: Keys, key_ring: KeyRing
    ) -> None:
        self._config = config
        self._database = database
        self._embedded = embedded
        self._metrics = Metrics()
        self._channels = AgentChannels()
        self._journal = Journal(database)
        self._bell = WorkBell()
        self._key_bell = WorkBell()
        self._order_bell = WorkBell()
        self._hints = Hints(
            database,
            {
                Hint.WORK: (self._bell.ring_for_new_work,),
                Hint.CHANGE: (self._journal.wake,),
                Hint.ORDER: (self._order_bell.ring,),
                Hint.KEYS: (self._key_bell.ring,),
            },
        )
        self._auth = AuthService(database, keys.tokens)
        self._vault = Vault(key_ring)
        self._secrets = SecretService(database, key_ring, os.urandom)
        store = ExecutionStore(
            database,
            self._channels,
            keys.leases,
            WireForm(),
            self._vault,
            on_change=(self._journal.wake, partial(self._hints.give, Hint.CHANGE)),
            on_new_work=(self._bell.ring_for_new_work, partial(self._hints.give, Hint.WORK)),
            on_room=(self._bell.ring,),
            on_keys=(self._key_bell.ring, partial(self._hints.give, Hint.KEYS)),
            on_orders=(partial(self._hints.give, Hint.ORDER),),
        )
        contact = config.agents
        self._agents = AgentService(
            store, keys.tokens, lease_seconds=contact.lease_seconds, token_hours=contact.token_hours
        )
        self._fleet = FleetService(store)
        self._dispatch = DispatchService(store, self._channels, self._bell, self._metrics.leased.inc)
        store.place_with(self._dispatch)
        self._arrivals = ArrivalService(store)
        self._watchdog = Watchdog(store, self._metrics.count_repairs)
        self._orders = OrderService(store, self._channels, self._order_bell.ring)
        self._reports = ReportService(store)
        self._logs = LogService(database, self._vault, limit=config.logs.largest_step_mib * 1024 * 1024)
        self._events = AgentEventService(database)
        self._reaper = Reaper(store, lease_seconds=config.agents.lease_seconds, unwritten=self._agents.unwritten)
        self._approvals = ApprovalService(store)
        self._concurrency = ConcurrencyService(store, self._key_bell)
        self._selectors = SelectorIds()
        job_timeout_ms = int(config.pipelines.job_timeout_hours * 3_600_000)
        self._starter = RunStarter(store, self._selectors, job_timeout_ms=job_timeout_ms)
        told = config.notifications
        self._notify_processes = NotifyProcesses(NotifySettings(told.allow, allow_http=told.allow_http))
        self._notifier = Notifier(
            database, self._vault, self._notify_processes, random.random, lanes=told.workers, run_url=told.run_url
        )
        self._cron = CronService(database, self._starter.start, late_seconds=config.triggers.late_seconds)
        self._hooks = HookService(database, key_ring)
        self._webhooks = WebhookService(database, key_ring, self._starter.start)
        self._triggers = TriggerService(
            database, ledger_days=config.triggers.ledger_days, ledger_rows=config.triggers.ledger_entries
        )
        self._rpc = self._make_rpc(store)
        self._http = self._make_http()

    def _make_rpc(self, store: ExecutionStore) -> RpcServer:
        timing = self._config.agents
        settings = Settings(int(timing.heartbeat_seconds * 1_000), int(timing.lease_seconds * 1_000))
        parts = AgentParts(
            self._agents, self._arrivals, self._dispatch, self._reports, self._channels, self._bell, settings
        )
        runs = RunService(store, self._starter)
        step_runs = StepRunService(store, self._selectors)
        return RpcServer(
            self._auth,
            self._metrics.observe_call,
            admin=AdminServicer(self._fleet, self._secrets, self._hooks, auth=self._auth, channels=self._channels),
            agent=AgentServicer(parts, self._auth, runs, step_runs),
            gateway=GatewayServicer(self._logs, self._events),
            pipeline=PipelineServicer(
                PipelineService(self._database),
                runs,
                self._approvals,
                self._concurrency,
                self._notifier,
                self._triggers,
            ),
            step_run=StepRunServicer(step_runs, ExplainService(self._database)),
            stream=StreamServicer(parts, self._journal, self._logs),
        )

    def _make_http(self) -> HttpServer:
        host, _, port = self._config.http.listen.rpartition(":")
        app = make_app(self._unready, self._metrics.registry, webhook_routes(self._webhooks))
        return HttpServer(app, host.strip("[]"), int(port))

    def _loops(self) -> list[Loop]:
        """The table of all background loops."""
        return [
            Loop("scheduler", self._schedule, interval=1.0, wait=self._bell.wait),
            Loop("orders", self._send_orders, interval=1.0, wait=self._order_bell.wait),
            Loop("hints", self._hints.run_once, interval=1.0, wait=self._hints.wait),
            Loop("watchdog", self._watchdog.run_once, interval=WATCHDOG_SECONDS, wait=self._watchdog.wait),
            Loop("journal", self._journal.run_once, interval=1.0, wait=self._journal.wait),
            Loop("reaper", self._reaper.run_once, interval=1.0),
            Loop("credentials", self._auth.end_streams, interval=2.0),
            Loop("approvals", self._approvals.expire, interval=1.0),
            Loop("concurrency", self._concurrency.run_once, interval=1.0, wait=self._key_bell.wait),
            Loop("notifier", self._notifier.run_once, interval=1.0),
            Loop("notifications", self._notifier.forget, interval=3_600.0),
            Loop("cron", self._cron.run_once, interval=1.0),
            Loop("deliveries", self._webhooks.resume, interval=15.0),
            Loop("trigger-ledger", self._triggers.prune, interval=600.0),
        ]

    async def _schedule(self) -> None:
        await self._dispatch.run_once()
        self._metrics.agents.set(len(self._channels.connected()))

    async def _send_orders(self) -> None:
        self._order_bell.answer()
        await self._orders.run_once()

    async def run(self, stop: asyncio.Event, ready: Callable[[Ready], Coroutine[Any, Any, None]]) -> None:
        first_start = await self._bootstrap()
        await self._secrets.check_keys()
        batchers = (self._auth, self._agents, self._arrivals, self._reports, self._logs, self._events)
        async with aclosing(self._notify_processes), asyncio.TaskGroup() as group:
            for batcher in batchers:
                group.create_task(batcher.run())
            grpc, http = await self._listen(group)
            try:
                # Agents can be heard of from here on, and nobody has looked yet which of them are late.
                await self._agents.rearm()
                crashpoint("rearm.after_commit")
                background = [group.create_task(loop.run(), name=loop.name) for loop in self._loops()]
                background.append(group.create_task(self._hints.listen(), name="listener"))
                if self._embedded is not None:
                    background.append(group.create_task(self._keep_database(self._embedded)))
                token_file = self._config.data_dir / ADMIN_TOKEN_FILE
                companion = group.create_task(ready(Ready(grpc, http, token_file, first_start)))
                await stop.wait()
            except BaseException:
                # Something that must run has ended: nobody is to be answered by what is left.
                await self._rpc.stop(0)
                raise
            # What runs beside the server, as the agent of `dev`, has its last words while there is somebody to hear them.
            companion.cancel()
            await asyncio.wait([companion])
            await self._drain(batchers, background)

    async def _listen(self, group: asyncio.TaskGroup) -> tuple[str, str]:
        host, _, _ = self._config.grpc.listen.rpartition(":")
        http_host, _, _ = self._config.http.listen.rpartition(":")
        try:
            http_port = self._http.bind()
        except OSError as error:
            reason = f"{error.strerror} (http.listen)"
            raise InstallationError(f"cannot listen on {self._config.http.listen}: {reason}") from error
        try:
            port = await self._rpc.start(self._config.grpc.listen)
        except RuntimeError as error:
            listen = self._config.grpc.listen
            raise InstallationError(f"cannot listen on {listen}: the address is taken (grpc.listen)") from error
        group.create_task(self._http.serve(), name="http")
        return f"{host}:{port}", f"{http_host}:{http_port}"

    async def _drain(
        self,
        batchers: Sequence[_Batching],
        background: list[asyncio.Task[None]],
    ) -> None:
        """Stop accepting, tell the agents, let calls end, commit what was handed in, then stop the rest."""
        _log.info("stopping")
        self._channels.ask_all_to_reconnect()
        self._dispatch.close()
        self._journal.close()
        self._logs.end_followers()
        crashpoint("drain.begun")
        await self._rpc.stop(self._config.grpc.drain_seconds)
        crashpoint("drain.answered")
        for batcher in batchers:
            batcher.close()
        self._http.should_exit = True
        for task in background:
            task.cancel()

    async def _bootstrap(self) -> bool:
        """Make the administrator's token at the first start, and leave it in a file of the data directory."""

        def keep(text: str) -> None:
            write_private(self._config.data_dir / ADMIN_TOKEN_FILE, text + "\n")

        return await self._auth.bootstrap(keep)

    async def _keep_database(self, embedded: EmbeddedPostgres) -> None:
        """Bring the embedded database back when it ends by itself: what was acknowledged is on its disk."""
        while True:
            dsn = embedded.dsn()
            code = await embedded.wait_exit()
            _log.error("database_ended", code=code, action="starting it again")
            try:
                await embedded.stop()
                await embedded.start()
            except EmbeddedPostgresError as error:
                raise InstallationError(f"the embedded PostgreSQL ended and does not start again: {error}") from error
            if embedded.dsn() != dsn:
                raise InstallationError("the embedded PostgreSQL came back at another address: start the server again")
            await self._agents.rearm()
            _log.info("database_back")

    async def _unready(self) -> dict[str, str]:
        try:
            async with asyncio.timeout(2), self._database.transaction() as tx:
                await tx.fetchval("SELECT 1")
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer is that the database is away
            return {"database": str(error) or type(error).__name__}
        return {}
