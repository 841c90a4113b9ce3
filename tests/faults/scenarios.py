"""One small story for each kind of place at which a server may die; each goes on until it has come to its end.

The stories insist: whoever is not answered asks again, as clients and code hosts do.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from tests.faults.field import Field
from tests.faults.workload import PIPELINES, Workload
from tests.support.deliveries import SECRET, generic
from tests.support.hook_server import HookServer
from tests.support.processes import until

PATIENCE = 900.0  # of a story: servers die all the time while it goes on
_RUNS_BY = "SELECT count(*) FROM pipeline_runs WHERE trigger_type = $1"
# Answers nothing when the agent is lost already. Again each time: a server that starts gives all agents new leases.
_EXPIRE = """
    UPDATE agents SET lease_until = clock_timestamp() - interval '1 s', spared_at = clock_timestamp()
     WHERE name = $1 AND lease_until IS NOT NULL RETURNING 1
"""
# What every run comes to by itself, and every agent that is there; and what a server does as it starts and stops.
_EVERYWHERE = (
    "change",
    "claim",
    "connect",
    "drain",
    "event",
    "fetch",
    "heartbeat",
    "log",
    "rearm",
    "report",
    "trigger",
)
_UNSENT = "SELECT count(*) FROM notifications WHERE state = 'pending'"
# What a server that died had claimed is free again after a while; here at once.
_LAPSE = (
    "UPDATE triggers SET claimed_until = NULL",
    "UPDATE hook_deliveries SET claimed_until = clock_timestamp() WHERE outcome IS NULL",
    "UPDATE notifications SET claimed_until = clock_timestamp() WHERE state = 'pending'",
)


@dataclasses.dataclass
class Scenarios:
    """See the module. `inbox` is where notifications go; the stories are tasks of `group`."""

    field: Field
    inbox: HookServer
    group: asyncio.TaskGroup
    work: Workload = dataclasses.field(init=False)
    _hook: str = ""
    _newcomers: int = 0
    _faults: list[str] = dataclasses.field(default_factory=list)
    _told: list[asyncio.Task[None]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.work = Workload(self.field, patience=PATIENCE)

    async def prepare(self) -> None:
        client, address = self.field.client, f"http://localhost:{self.inbox.port}/200"
        secret = admin_pb2.SetSecretRequest(name="INBOX", value=address)
        await client.admin.SetSecret(secret, metadata=client.metadata)
        notice = {"plugin": "webhook", "args": {"url": "${{ secrets.INBOX }}", "text": "over"}}
        job = PIPELINES["patient"]["jobs"][0]
        await self.work.prepare(
            ticking={"jobs": [job], "triggers": [{"type": "cron", "schedule": "0 0 1 1 *"}]},
            delivered={"jobs": [job], "triggers": [{"type": "event", "events": ["push"]}]},
            telling={"jobs": [{**job, "notify": {"on_success": notice}}]},
        )
        request = admin_pb2.CreateHookRequest(name="generic", secret=SECRET, forge=admin_pb2.FORGE_GENERIC)
        answer = await client.admin.CreateHook(request, metadata=client.metadata)
        self._hook = answer.hook.hook_id

    async def lapse(self) -> None:
        """Let the time pass for which a server that died has what it had claimed."""
        async with self.field.database.transaction() as tx:
            for query in _LAPSE:
                await tx.execute(query)

    def begin(self, point: str) -> None:
        """Begin the story that comes to a place.

        Raises:
            KeyError: no story is told of such a place.
        """
        stories = {
            **dict.fromkeys(_EVERYWHERE, self.small),
            "approval": self.approve,
            "cancel_job": self.cancel_job,
            "cancel_step": self.cancel_step,
            "concurrency": self.wait_for_key,
            "cron": self.tick,
            "notify": self.tell,
            "reaper": self.lose_agent,
            "register": self.join,
            "retry_run": self.retry_run,
            "retry_step": self.retry_step,
            "rotate": self.rotate,
            "secret": self.set_secret,
            "stop_run": self.stop,
            "webhook": self.deliver,
        }
        story = stories[point.partition(".")[0]]
        self._told.append(self.group.create_task(self._tell(point, story), name=f"{point}, {story.__name__}"))

    async def _tell(self, point: str, story: Callable[[], Awaitable[None]]) -> None:
        try:
            await story()
        except Exception as error:  # noqa: BLE001 - the others go on; `ended` says it
            self._faults.append(f"{point}, {story.__name__}: {error!r}")

    async def ended(self) -> None:
        """Wait until all stories have come to their ends.

        Raises:
            AssertionError: one did not come to the end that it should.
        """
        if self._told:
            await asyncio.wait(self._told)  # which, as it is given up, gives none of them up
        self._told.clear()
        assert not self._faults, "\n".join(self._faults)

    def give_up(self) -> list[str]:
        """End the stories that go on, and return which they are, with what went wrong in others."""
        going = [task for task in self._told if not task.done()]
        for task in going:
            task.cancel()
        return [task.get_name() for task in going] + self._faults

    async def small(self) -> None:
        """What comes to most places by itself: a run of two jobs beside each other, with two steps each."""
        await self.work.ended(await self.work.trigger("plain"))

    async def wait_for_key(self) -> None:
        """Two runs want one key."""
        await self.work.ended(*[await self.work.trigger("keyed") for _ in range(2)])

    async def approve(self) -> None:
        run = await self.work.trigger("gated")
        await self.work.approve(run)
        await self.work.ended(run)

    async def cancel_step(self) -> None:
        run = await self.work.trigger("long")
        found = await self.work.running(run)
        await self.work.cancel_step(found.job_runs[0].step_runs[0].step_run_id)
        await self.work.ended(run)

    async def cancel_job(self) -> None:
        run = await self.work.trigger("long")
        found = await self.work.running(run)
        client, job = self.field.client, found.job_runs[0].job_run_id
        request = agent_pb2.CancelJobRunRequest(job_run_id=job, reason="not wanted")
        await self.field.history.insist(
            "cancel_job", lambda: client.agent.CancelJobRun(request, metadata=client.metadata), job
        )
        await self.work.ended(run)

    async def stop(self) -> None:
        run = await self.work.trigger("long")
        await self.work.running(run)
        await self.work.stop(run)
        await self.work.ended(run)

    async def retry_step(self) -> None:
        run = await self.work.trigger("failing")
        [found] = await self.work.ended(run)
        step = found.job_runs[0].step_runs[0]
        assert step.status == pipeline_pb2.PIPELINE_STATUS_FAILED
        await self.work.retry_step(step.step_run_id)
        await self.work.ended(run)

    async def retry_run(self) -> None:
        run = await self.work.trigger("failing")
        await self.work.ended(run)
        await self.work.retry_run(run)
        await self.work.ended(run)

    async def tick(self) -> None:
        """A schedule is due: it fires once."""
        before = await self.field.value(_RUNS_BY, "CRON")
        await self.field.value(
            "UPDATE triggers SET next_at = clock_timestamp() - interval '1 s' WHERE type = 'CRON' RETURNING 1"
        )
        await self._once("CRON", int(str(before)))

    async def deliver(self) -> None:
        """A code host delivers, again and again until it is answered: that starts one run."""
        before = await self.field.value(_RUNS_BY, "EVENT")
        name = f"delivery-{before}"
        one = generic({"event": "push", "branch": "main", "actor": name}, delivery_id=name)

        async def post() -> bool:
            try:
                async with httpx.AsyncClient(trust_env=False) as client:
                    address = f"http://{self.field.server.http}/webhooks/{self._hook}"
                    answer = await client.post(address, content=one.body, headers=dict(one.headers))
            except httpx.HTTPError:
                return False
            assert answer.status_code < 400 or answer.status_code >= 500, answer.text
            return answer.is_success

        await until(post, within=PATIENCE)
        await self._once("EVENT", int(str(before)))

    async def tell(self) -> None:
        run = await self.work.trigger("telling")
        await self.work.ended(run)

        async def sent() -> bool:
            return not await self.field.value(_UNSENT)

        await until(sent, within=PATIENCE)

    async def lose_agent(self) -> None:
        """An agent is killed with a step, and lost when its lease is over, which is at once."""
        self._newcomers += 1
        name = f"victim-{self._newcomers}"
        fleet = await self.field.agents(1, name, options=("--slots", "9"))
        run = await self.work.trigger("lasting")
        await self.work.running(run)
        await fleet.kill()

        async def is_lost() -> bool:
            return await self.field.value(_EXPIRE, f"{name}-0") is None

        await until(is_lost, within=PATIENCE)
        await self.work.ended(run)

    async def join(self) -> None:
        self._newcomers += 1
        await self.field.agents(1, f"newcomer-{self._newcomers}", options=("--slots", "1"))

    async def rotate(self) -> None:
        """An agent asks for a new credential until it has one; that one is good."""
        history, agents = self.field.history, self.field.client.agent
        request = agent_pb2.RegisterRequest(agent_name="rotating", registration_token=await self.field.token())
        joined = await history.insist("register", lambda: agents.Register(request), within=PATIENCE)
        old = (("authorization", f"Bearer {joined.auth_token}"),)
        wanted = agent_pb2.RotateCredentialRequest(agent_id=joined.agent_id)
        rotated = await history.insist("rotate", lambda: agents.RotateCredential(wanted, metadata=old), within=PATIENCE)
        new = (("authorization", f"Bearer {rotated.auth_token}"),)
        beat = agent_pb2.HeartbeatRequest(agent_id=joined.agent_id)
        await history.insist("heartbeat", lambda: agents.Heartbeat(beat, metadata=new), within=PATIENCE)

    async def set_secret(self) -> None:
        client = self.field.client
        secret = admin_pb2.SetSecretRequest(name="SOME", value="what nobody knows")
        await self.field.history.insist(
            "set_secret", lambda: client.admin.SetSecret(secret, metadata=client.metadata), within=PATIENCE
        )

    async def _once(self, trigger_type: str, before: int) -> None:
        async def started() -> Any:
            return int(str(await self.field.value(_RUNS_BY, trigger_type))) - before

        await until(started, within=PATIENCE)
        assert await started() == 1, json.dumps([trigger_type, before])
