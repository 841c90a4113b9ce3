"""One simulated agent: who it is, and its sessions, one after the other."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc import aio

from arcentra_api.agent.v1 import agent_pb2, agent_pb2_grpc
from tests.support.simagent.connect import ConnectSession
from tests.support.simagent.journal import Journal, boot_time
from tests.support.simagent.plan import Odds
from tests.support.simagent.pull import PullSession
from tests.support.simagent.ship import Shipper
from tests.support.simagent.steps import Steps

WATCHDOG = 25 / 30  # of the lease time, as reliability wants of real agents
_LONGEST_PAUSE = 0.5
# An agent is a machine of its own, and tries soon again.
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 300),
    ("grpc.max_reconnect_backoff_ms", 500),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What all agents of a program share. `skew`: seconds by which the clock of every second one is wrong."""

    server: str
    folder: Path
    token: str
    slots: int = 2
    heartbeat: float = 1.0
    lease: float = 3.0
    skew: int = 3_600
    labels: Mapping[str, str] = field(default_factory=dict)
    odds: Odds = field(default_factory=Odds)


class SimAgent:
    """See the module. `pulls`: it fetches step runs instead of holding Connect."""

    def __init__(self, settings: Settings, name: str, number: int, *, pulls: bool) -> None:
        self._settings = settings
        self._name = name
        self._pulls = pulls
        self._skew = settings.skew if number % 2 else 0
        self._chance = random.Random(f"{settings.odds.seed}:{name}:{os.getpid()}")  # noqa: S311 - jitter
        self._channel = aio.insecure_channel(settings.server, options=_OPTIONS)

    async def run(self) -> None:
        """Join, or come back, and work until cancelled."""
        agent_id, token = await self._identity()
        metadata = (("authorization", f"Bearer {token}"),)
        path = self._settings.folder / f"{self._name}.jsonl"
        journal = Journal(path)
        journal.write("boot", agent=agent_id, boot=f"{os.getpid()}-{boot_time()}", at=boot_time())
        shipper = Shipper(agent_id, metadata, journal, self._chance, self._channel)
        steps = Steps(journal, shipper, self._settings.odds, WATCHDOG * self._settings.lease, self._now)
        steps.recover(path, tells_losses=self._pulls)
        async with asyncio.TaskGroup() as processes:
            processes.create_task(shipper.run())
            processes.create_task(steps.finish())
            await self._sessions(agent_id, metadata, steps, processes)

    async def _sessions(
        self, agent_id: str, metadata: tuple[tuple[str, str], ...], steps: Steps, processes: asyncio.TaskGroup
    ) -> None:
        pause, task = 0.0, asyncio.current_task()
        assert task is not None
        while True:
            session = self._session(agent_id, metadata, steps)
            try:
                await session.run(self._channel, processes)
            except ConnectionError:
                pass
            except aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    raise
            if task.cancelling():
                # A task group of which something fails while it is cancelled tells of the failure only.
                raise asyncio.CancelledError
            pause = 0.05 if session.answered else min(_LONGEST_PAUSE, 2 * pause + 0.05)
            await asyncio.sleep(pause * self._chance.uniform(0.5, 1.5))

    def _session(
        self, agent_id: str, metadata: tuple[tuple[str, str], ...], steps: Steps
    ) -> ConnectSession | PullSession:
        slots, heartbeat = self._settings.slots, self._settings.heartbeat
        patience = max(2 * heartbeat, WATCHDOG * self._settings.lease)
        if self._pulls:
            return PullSession(agent_id, metadata, steps, slots, heartbeat, patience, self._chance)
        return ConnectSession(agent_id, metadata, steps, slots, heartbeat, patience)

    async def _identity(self) -> tuple[str, str]:
        """Return the agent's id and token: those that it keeps, or new ones."""
        kept = self._settings.folder / f"{self._name}.json"
        with suppress(FileNotFoundError):
            known = json.loads(kept.read_text())
            return known["agent_id"], known["token"]
        request = agent_pb2.RegisterRequest(
            agent_name=self._name,
            os="linux",
            arch="amd64",
            version="simulated",
            max_concurrent_step_runs=self._settings.slots,
            labels=dict(self._settings.labels),
            registration_token=self._settings.token,
        )
        while True:
            try:
                answer = await agent_pb2_grpc.AgentServiceStub(self._channel).Register(request, timeout=5)
                break
            except aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT):
                    raise
                await asyncio.sleep(0.2 * self._chance.uniform(0.5, 1.5))
        scratch = kept.with_suffix(".new")
        scratch.write_text(json.dumps({"agent_id": answer.agent_id, "token": answer.auth_token}))
        scratch.rename(kept)
        return answer.agent_id, answer.auth_token

    def _now(self) -> int:
        return int(time.time()) + self._skew
