"""Small stories with faults in them, in which planted bugs show. Where nothing is broken, the checker finds nothing.

Each waits for what has to have happened before it goes on, so that a bug that shows on a quiet machine shows on a busy
one too. How long they take decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from grpc import aio

from arcentra_api.pipeline.v1.pipeline_pb2 import PausePipelineRequest, ResumePipelineRequest
from tests.faults.field import Field
from tests.faults.workload import AGAIN, Workload
from tests.support.processes import until
from tests.support.tcp_proxy import tcp_proxy

_DIES_WITHIN = 60.0
_HOLDS = "EXISTS (SELECT 1 FROM leases l WHERE l.agent_id = agents.id AND l.ended_at IS NULL)"


def _job(*scripts: str, **more: Any) -> dict[str, Any]:
    steps = [
        {"name": f"step-{number}", "uses": "shell", "args": {"script": script}} for number, script in enumerate(scripts)
    ]
    return {"jobs": [{"name": "one", "steps": steps, **more}]}


# `any`: as long as steps take on the agents that get it.
_PIPELINES = {
    "some": _job("any", retry=AGAIN),
    "short": _job("sim 3", retry=AGAIN),
    "alone": _job("any", retry=AGAIN, concurrency="alone"),
    "once": _job("any", concurrency="once"),
    "two": _job("any", "sim 0.1", retry=AGAIN),
    "unwanted": _job("sim 6"),
}


async def _begin(field: Field, *, crash_at: str = "") -> Workload:
    await field.serve(crash_at=crash_at)
    work = Workload(field)
    await work.prepare(**_PIPELINES)
    return work


def _takes(seconds: float) -> tuple[str, ...]:
    """Return the options of agents whose steps take so long, unless they say themselves how long."""
    return ("--step-seconds", str(seconds), str(seconds))


_FOR_EVER = _takes(600)


async def server_dies_under_reports(field: Field) -> None:
    """The server dies before and after it commits what agents report, each time while all of them work.

    So often that some of what is not committed is the end of a step, and not only its start.
    """
    field.lease, field.heartbeat = 30.0, 1.0
    work = await _begin(field)
    await field.agents(4, pulling=1, options=("--logs", "0", "--events", "0"))
    await work.feed(120, "patient")
    for change in (8, 9, 7, 10, 8):
        await _die(field, f"change.before_commit:{change}")
    await _die(field, "change.after_commit:8")
    await field.serve()


async def server_dies_under_uploads(field: Field) -> None:
    """The server dies while it stores what agents send in bulk: logs, then events."""
    field.lease, field.heartbeat = 30.0, 1.0
    work = await _begin(field)
    await field.agents(4, pulling=1, options=("--logs", "1", "--events", "1"))
    await work.feed(48, "patient")
    for point in ("log.before_commit:2", "log.mid:2", "event.before_commit:2"):
        await _die(field, point)
    await field.serve()


async def server_dies_under_calls(field: Field) -> None:
    """The server dies before and after it commits what clients ask for; they ask until they are answered."""
    field.lease, field.heartbeat = 30.0, 1.0
    work = await _begin(field, crash_at="approval.after_commit")
    await field.agents(2)
    async with asyncio.TaskGroup() as group:
        group.create_task(_approve(work, await work.trigger("gated")))
        await _death(field)
        group.create_task(work.feed(24, "patient"))
        for _ in range(2):
            await _die(field, "trigger.before_commit:2")
        await field.serve()


async def _die(field: Field, point: str) -> None:
    """Let a server die at a place, to which what goes on brings it."""
    await field.kill()
    await field.serve(crash_at=point)
    await _death(field)


async def _death(field: Field) -> None:
    async with asyncio.timeout(_DIES_WITHIN):
        await field.server.process.wait()


async def _approve(work: Workload, run: str) -> None:
    with suppress(aio.AioRpcError):  # it is decided already: the checker looks for the vote
        await work.approve(run)


async def agents_die(field: Field) -> None:
    """Agents are killed with what runs on them, some of it under concurrency keys; others run it again."""
    work = await _begin(field)
    doomed = await field.agents(2, "doomed", options=("--slots", "2", *_FOR_EVER))
    for name in ("alone", "once", "some"):
        await work.trigger(name)
    await work.busy("doomed", 3)
    await work.trigger("alone")
    await field.agents(2, "whole", options=("--slots", "3", *_takes(2)))
    await doomed.kill()


async def agents_stand_still(field: Field) -> None:
    """Agents are stopped in the middle of their work; others do it again, and then they go on."""
    field.lease = 9.0
    work = await _begin(field)
    zombies = await field.agents(2, "zombie", options=("--slots", "1", *_FOR_EVER))
    for name in ("short", "some"):
        await work.trigger(name)
    await work.busy("zombie", 2)
    await field.agents(2, "whole", options=_takes(2.5))
    zombies.freeze()
    await until(lambda: _are(field, f"name LIKE 'zombie%' AND status = 'OFFLINE' AND NOT {_HOLDS}", 2))
    await work.busy("whole", 2)
    zombies.thaw()


async def work_comes_to_nobody(field: Field) -> None:
    """Agents are stopped, and work is sent to them; others get it, and in the middle of it they go on."""
    work = await _begin(field)
    zombies = await field.agents(2, "zombie", options=("--slots", "2", *_FOR_EVER))
    await until(lambda: _are(field, "status = 'IDLE'", 2))
    zombies.freeze()
    for _ in range(6):
        await work.trigger("some")
    await field.agents(2, "whole", options=("--slots", "3", *_takes(2.5)))
    await until(lambda: _are(field, f"name LIKE 'zombie%' AND status = 'OFFLINE' AND NOT {_HOLDS}", 2))
    await work.busy("whole", 4)
    zombies.thaw()


async def everybody_is_silent(field: Field) -> None:
    """All agents fall silent at once: for a lease time behind a dead network, then as the server itself is away.

    The second time they are too few for the brake, and do not reach the server as soon as it is there again.
    """
    field.lease = 4.0
    field.history.keeps_leases = True
    work = await _begin(field)
    async with tcp_proxy(field.server.grpc) as proxy:
        await field.agents(4, address=proxy.address, options=("--slots", "1"))
        runs = [await work.trigger("short") for _ in range(4)]
        await work.busy("sim", 4)
        proxy.hold()
        await until(lambda: _are(field, f"spared_at > last_contact_at OR NOT {_HOLDS}", 4))
        proxy.heal()
        await work.ended(*runs)
        runs = [await work.trigger("short") for _ in range(2)]
        await work.busy("sim", 2)
        proxy.hold()
        await field.kill()
        await until(lambda: _are(field, "lease_until < clock_timestamp()", 4))
        await field.serve()
        await until(lambda: _are(field, f"lease_until > clock_timestamp() OR NOT {_HOLDS}", 4))
        proxy.heal()
        await work.ended(*runs)


async def cancel_is_lost(field: Field) -> None:
    """A step is cancelled while nothing reaches its agent, and the connection ends; the agent is back at once."""
    field.heartbeat = 0.5
    work = await _begin(field)
    async with tcp_proxy(field.server.grpc) as proxy:
        await field.agents(1, address=proxy.address)
        run = await work.trigger("unwanted")
        found = await work.running(run)
        proxy.down.hold()
        await work.cancel_step(found.job_runs[0].step_runs[0].step_run_id)
        proxy.end_connections()
        proxy.heal()
        await work.ended(run)


async def runs_are_paused(field: Field) -> None:
    """Runs are paused in the middle of jobs, and before they have their concurrency key, and go on later."""
    work = await _begin(field)
    await field.agents(4, options=("--slots", "1", *_takes(3)))
    holder, waiter = [await work.trigger("alone") for _ in range(2)]
    jobs = [await work.trigger("two") for _ in range(3)]
    await work.busy("sim", 4)
    client = field.client.pipeline
    await asyncio.gather(
        *(_ask(field, client.PausePipeline, PausePipelineRequest(run_id=run)) for run in (waiter, *jobs))
    )
    await work.ended(holder)
    await until(lambda: _held(field, 3))
    # It has more room than all others: whatever may go anywhere goes there.
    await field.agents(1, "large", options=("--slots", "9"))
    for run in (waiter, *jobs):
        await _ask(field, client.ResumePipeline, ResumePipelineRequest(run_id=run))


async def _ask(field: Field, call: Callable[..., Awaitable[Any]], request: Any) -> None:
    await field.history.insist(
        type(request).__name__, lambda: call(request, metadata=field.client.metadata), request.run_id
    )


async def _are(field: Field, condition: str, number: int) -> bool:
    """Answer whether the condition holds of so many agents."""
    return await field.value(f"SELECT count(*) FROM agents WHERE {condition}") == number  # noqa: S608 - from above


async def _held(field: Field, number: int) -> bool:
    return await field.value("SELECT count(*) FROM step_queue WHERE held") == number


SCENARIOS: dict[str, Callable[[Field], Awaitable[None]]] = {
    story.__name__: story
    for story in (
        server_dies_under_reports,
        server_dies_under_uploads,
        server_dies_under_calls,
        agents_die,
        agents_stand_still,
        work_comes_to_nobody,
        everybody_is_silent,
        cancel_is_lost,
        runs_are_paused,
    )
}
