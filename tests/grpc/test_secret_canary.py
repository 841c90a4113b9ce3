"""A value is planted, used by a step, and looked for in everything that the server says, shows and stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
from google.protobuf import json_format
from google.protobuf.message import Message

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.gateway.v1 import gateway_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from tests.support.server import Client, Server
from tests.support.work import take_one

CANARY = "planted/canary value:4711"


async def trigger(admin: Client) -> str:
    job = pipeline_pb2.Job(name="job")
    job.agent_selector.match_labels["pool"] = "canary"
    job.steps.add(name="plain", uses="shell").args.update({"script": "true"})
    step = job.steps.add(name="use", uses="shell", secrets={"TOKEN": "CANARY"})
    step.args.update({"script": "deploy"})
    request = pipeline_pb2.CreatePipelineRequest(name="canary", jobs=[job])
    pipeline_id = (await admin.pipeline.CreatePipeline(request, metadata=admin.metadata)).pipeline_id
    start = pipeline_pb2.TriggerPipelineRequest(pipeline_id=pipeline_id)
    return str((await admin.pipeline.TriggerPipeline(start, metadata=admin.metadata)).run_id)


async def take_of(agent: Client, run_id: str) -> Any:
    """Take the next step of a run; steps that other tests left for any agent to take are not of interest."""
    while True:
        step = await take_one(agent)
        if step.pipeline_run_id == run_id:
            return step
        await report(agent, step, steprun_pb2.STEP_RUN_STATUS_RUNNING)
        await report(agent, step, steprun_pb2.STEP_RUN_STATUS_SUCCESS)


async def report(agent: Client, step: Any, status: int, **fields: Any) -> None:
    request = agent_pb2.ReportStepRunStatusRequest(
        step_run_id=step.step_run_id,
        status=status,  # type: ignore[arg-type]
        lease_token=step.lease_token,
        attempt=step.attempt,
        **fields,
    )
    await agent.agent.ReportStepRunStatus(request, metadata=agent.metadata)


async def push(agent: Client, agent_id: str, step_run_id: str, *parts: bytes) -> None:
    async def requests() -> AsyncIterator[gateway_pb2.PushLogsRequest]:
        yield gateway_pb2.PushLogsRequest(handshake=gateway_pb2.AgentHandshake(agent_id=agent_id))
        for seq, raw in enumerate(parts, 1):
            meta = gateway_pb2.Meta(step_id=step_run_id, seq=seq)
            batch = gateway_pb2.LogBatch(batch_id=str(seq), meta=meta, data=raw, raw_size=len(raw))
            yield gateway_pb2.PushLogsRequest(batch=batch)

    answer = await agent.gateway.PushLogs(requests(), metadata=agent.metadata)
    assert answer.ack.last_accepted_seq == len(parts)


async def stream(call: Any) -> list[Message]:
    """What a stream says until it ends, as those do that are about what has ended."""
    async with asyncio.timeout(20):
        return [message async for message in call]


async def everything_stored(dsn: str) -> bytes:
    connection = await asyncpg.connect(dsn)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        stored = b""
        for (table,) in tables:
            for row in await connection.fetch(f'SELECT * FROM "{table}"'):  # noqa: S608 - names of our tables
                stored += b"\n".join(
                    value if isinstance(value, bytes) else str(value).encode() for value in row.values()
                )
        return stored
    finally:
        await connection.close()


async def test_a_planted_value_goes_to_the_agent_of_its_step_and_nowhere_else(
    server: Server, admin: Client, registration: str
) -> None:
    secret = admin_pb2.SetSecretRequest(name="CANARY", value=CANARY)
    await admin.admin.SetSecret(secret, metadata=admin.metadata)
    agent_id, agent = await admin.join(registration, "canary", labels={"pool": "canary"})
    run_id = await trigger(admin)

    plain = await take_of(agent, run_id)
    assert dict(plain.secrets) == {}
    await report(agent, plain, steprun_pb2.STEP_RUN_STATUS_RUNNING)
    await report(agent, plain, steprun_pb2.STEP_RUN_STATUS_SUCCESS)
    step = await take_of(agent, run_id)
    assert dict(step.secrets) == {"TOKEN": CANARY}
    await report(agent, step, steprun_pb2.STEP_RUN_STATUS_RUNNING)
    parts = (f"+ deploy '{CANARY}'\nplanted/can".encode(), f"ary value:4711\n{CANARY}".encode())
    await push(agent, agent_id, step.step_run_id, *parts)
    size = sum(map(len, parts))
    await report(
        agent, step, steprun_pb2.STEP_RUN_STATUS_FAILED, exit_code=3, error_message="exit code 3", log_size=size
    )

    get_step = steprun_pb2.GetStepRunRequest(step_run_id=step.step_run_id)
    get_run = pipeline_pb2.GetPipelineRunRequest(run_id=run_id)
    list_steps = steprun_pb2.ListStepRunsRequest(pipeline_run_id=run_id)
    events = stream_pb2.StreamEventsRequest(resource_ids=[run_id, step.step_run_id])
    statuses = stream_pb2.StreamStepRunStatusRequest(pipeline_run_id=run_id)
    logs = stream_pb2.StreamStepRunLogsRequest(step_run_id=step.step_run_id)
    said: list[Message] = [
        await admin.step_run.GetStepRun(get_step, metadata=admin.metadata),
        await admin.step_run.ListStepRuns(list_steps, metadata=admin.metadata),
        await admin.pipeline.GetPipelineRun(get_run, metadata=admin.metadata),
        await admin.admin.ListSecrets(admin_pb2.ListSecretsRequest(), metadata=admin.metadata),
        *await stream(admin.stream.StreamEvents(events, metadata=admin.metadata)),
        *await stream(admin.stream.StreamStepRunStatus(statuses, metadata=admin.metadata)),
    ]
    log = b"".join(m.data for m in await stream(admin.stream.StreamStepRunLogs(logs, metadata=admin.metadata)))  # type: ignore[attr-defined]
    stars = b"*" * len(CANARY)
    assert log == b"+ deploy '%s'\n%s\n%s" % (stars, stars, stars)
    shown = "".join(json_format.MessageToJson(message, ensure_ascii=False) + str(message) for message in said)
    assert "CANARY" in shown
    assert "use" in shown
    stored = await everything_stored(server.database_url)
    for place in (shown.encode(), stored, server.log.read_bytes()):
        assert CANARY.encode() not in place
        assert b"canary value" not in place
