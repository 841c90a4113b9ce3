"""What operators want of agents, over the wire: refusals, settings, cancels, credentials, and what others see of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import pytest
from grpc import aio

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from tests.grpc.test_refusals import refusal
from tests.support.server import Client, Server
from tests.support.work import one_step_pipeline, take_one

PENDING, DISABLED = "agent pending approval", "agent is disabled"
REFUSED = (grpc.StatusCode.FAILED_PRECONDITION, "NOT_ADMITTED")


async def beat(agent: Client, **said: Any) -> agent_pb2.HeartbeatResponse:
    request = agent_pb2.HeartbeatRequest(**said)
    answer: agent_pb2.HeartbeatResponse = await agent.agent.Heartbeat(request, metadata=agent.metadata)
    return answer


async def connect(agent: Client, **beat: Any) -> Any:
    """Open Connect, as a client that numbers its messages."""
    call = agent.agent.Connect(metadata=agent.metadata)
    heartbeat = agent_pb2.ConnectHeartbeat(max_concurrent_step_runs=1, **beat)
    await call.write(agent_pb2.ConnectRequest(heartbeat=heartbeat, sequence=1))
    return call


async def drain(admin: Client, agent_id: str, reason: str = "") -> admin_pb2.AgentDetail:
    request = admin_pb2.DrainAgentRequest(agent_id=agent_id, reason=reason)
    answer: admin_pb2.DrainAgentResponse = await admin.admin.DrainAgent(request, metadata=admin.metadata)
    return answer.agent


async def read_all(call: Any) -> None:
    while await call.read() is not aio.EOF:
        pass


async def end_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """Read a stream to the error that ends it."""
    with pytest.raises(aio.AioRpcError) as caught:
        await read_all(call)
    return caught.value.code(), caught.value.details() or ""


async def close(*channels: Any) -> None:
    """End channels as their agents do."""
    for channel in channels:
        await channel.done_writing()
        await read_all(channel)


def doors(agent: Client) -> list[Any]:
    """Every way in which an agent gets work. Nothing is said on them: a client whose words are refused may miss why."""
    fetch = agent_pb2.FetchStepRunRequest(max_step_runs=1)
    return [
        agent.agent.FetchStepRun(fetch, metadata=agent.metadata),
        agent.agent.Connect(metadata=agent.metadata),
        agent.stream.AgentChannel(metadata=agent.metadata),
    ]


@pytest.fixture
async def sql(server: Server) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(server.database_url)
    yield connection
    await connection.close()


async def test_an_agent_that_waits_for_approval_only_beats(server: Server, admin: Client) -> None:
    registration = await server.command("registration-token", "create", "--needs-approval")
    request = agent_pb2.RegisterRequest(registration_token=registration, agent_name="new", labels={"pool": "new"})
    joined = await admin.agent.Register(request)
    agent = admin.as_caller(joined.auth_token)
    assert (joined.pending_approval, joined.heartbeat_interval, joined.lease_duration) == (True, 10_000, 30_000)
    assert 23 * 3_600 < joined.token_expires_at - time.time() < 25 * 3_600
    assert (await beat(agent)).message == PENDING
    labels = agent_pb2.UpdateLabelsRequest(labels={"pool": "other"})
    for call in (
        *doors(agent),
        agent.agent.UpdateLabels(labels, metadata=agent.metadata),
        agent.gateway.PushEvents(metadata=agent.metadata),
    ):
        assert (await refusal(call))[:2] == REFUSED
        assert await call.details() == PENDING
    approve = admin_pb2.ApproveAgentRequest(agent_id=joined.agent_id)
    approved = (await admin.admin.ApproveAgent(approve, metadata=admin.metadata)).agent
    assert (approved.status, approved.pending_approval) == (agent_pb2.AGENT_STATUS_IDLE, False)
    assert not (await agent.agent.Register(agent_pb2.RegisterRequest(token=joined.auth_token))).pending_approval
    call = await connect(agent)
    assert not (await call.read()).settings.drain
    await close(call)


async def test_a_disabled_agent_gets_no_work(admin: Client, registration: str) -> None:
    agent_id, agent = await admin.join(registration, "disabled")
    request = admin_pb2.DisableAgentRequest(agent_id=agent_id, reason="broken")
    done = (await admin.admin.DisableAgent(request, metadata=admin.metadata)).agent
    assert (done.disabled, done.note) == (True, "broken")
    answer = await beat(agent)
    assert (answer.message, answer.settings.drain, answer.settings.drain_reason) == (DISABLED, True, "broken")
    for call in doors(agent):
        assert (await refusal(call))[:2] == REFUSED
        assert await call.details() == DISABLED
    enable = admin_pb2.EnableAgentRequest(agent_id=agent_id)
    assert (await admin.admin.EnableAgent(enable, metadata=admin.metadata)).agent.status == agent_pb2.AGENT_STATUS_IDLE
    call = await connect(agent)
    assert not (await call.read()).settings.drain
    await close(call)


async def test_a_disabled_agent_comes_back_to_what_it_runs(admin: Client, registration: str) -> None:
    agent_id, agent = await admin.join(registration, "finishing", labels={"pool": "finishing"})
    trigger = pipeline_pb2.TriggerPipelineRequest(
        pipeline_id=await one_step_pipeline(admin, "finishing", pool="finishing")
    )
    await admin.pipeline.TriggerPipeline(trigger, metadata=admin.metadata)
    step = await take_one(agent)
    report = agent_pb2.ReportStepRunStatusRequest(
        step_run_id=step.step_run_id, status=steprun_pb2.STEP_RUN_STATUS_RUNNING
    )
    await agent.agent.ReportStepRunStatus(report, metadata=agent.metadata)
    disable = admin_pb2.DisableAgentRequest(agent_id=agent_id)
    assert (await admin.admin.DisableAgent(disable, metadata=admin.metadata)).agent.running_step_runs_count == 1
    call = await connect(agent, running_step_run_ids=[step.step_run_id])
    message = await call.read()
    assert (message.settings.drain, list(message.task_cancels)) == (True, [])
    ended = agent_pb2.TaskStatus(step_run_id=step.step_run_id, status=steprun_pb2.STEP_RUN_STATUS_SUCCESS)
    await call.write(agent_pb2.ConnectRequest(task_statuses=[ended], sequence=2))
    while message.acked_sequence < 2:
        message = await call.read()
        assert not message.refusals
    await close(call)
    for door in doors(agent):
        assert (await refusal(door))[:2] == REFUSED


async def test_a_restarted_agent_has_lost_its_step_though_the_clock_of_the_database_was_set_back(
    admin: Client, registration: str, sql: asyncpg.Connection
) -> None:
    _, agent = await admin.join(registration, "restarted", labels={"pool": "restarted"})
    pipeline_id = await one_step_pipeline(admin, "restarted", pool="restarted")
    trigger = pipeline_pb2.TriggerPipelineRequest(pipeline_id=pipeline_id)
    await admin.pipeline.TriggerPipeline(trigger, metadata=admin.metadata)
    step = await take_one(agent)
    report = agent_pb2.ReportStepRunStatusRequest(
        step_run_id=step.step_run_id, status=steprun_pb2.STEP_RUN_STATUS_RUNNING
    )
    await agent.agent.ReportStepRunStatus(report, metadata=agent.metadata)
    await sql.execute(
        "UPDATE leases SET created_at = created_at + interval '5 min' WHERE step_run_id = $1", UUID(step.step_run_id)
    )
    call = await connect(agent)
    message = await call.read()
    while message.acked_sequence < 1:
        message = await call.read()
    await close(call)
    query = "SELECT status || ' ' || failure_reason FROM step_runs WHERE id = $1"
    assert await sql.fetchval(query, UUID(step.step_run_id)) == "FAILED agent_lost"


async def test_settings_come_first_and_when_they_change(admin: Client, registration: str) -> None:
    agent_id, agent = await admin.join(registration, "told")
    call = await connect(agent)
    settings = (await call.read()).settings
    assert (settings.heartbeat_interval, settings.lease_duration) == (10_000, 30_000)
    assert (settings.drain, settings.rotate_credential) == (False, False)
    await beat(agent)
    shown = await drain(admin, agent_id, "upgrade")
    assert (shown.draining, shown.note, shown.status) == (True, "upgrade", agent_pb2.AGENT_STATUS_DRAINING)
    settings = await next_settings(call)
    assert (settings.drain, settings.drain_reason, settings.lease_duration) == (True, "upgrade", 30_000)
    resume = admin_pb2.ResumeAgentRequest(agent_id=agent_id)
    await admin.admin.ResumeAgent(resume, metadata=admin.metadata)
    assert not (await next_settings(call)).drain
    await close(call)


async def test_a_heartbeat_that_is_not_stored_is_not_acknowledged(
    admin: Client, registration: str, sql: asyncpg.Connection
) -> None:
    """The agent would keep its steps on a lease that it does not have."""
    _, agent = await admin.join(registration, "unlucky")
    call = await connect(agent)
    assert (await call.read()).acked_sequence == 1
    await sql.execute("ALTER TABLE agents ADD CONSTRAINT stuck CHECK (name <> 'unlucky') NOT VALID")
    try:
        await call.write(agent_pb2.ConnectRequest(heartbeat=agent_pb2.ConnectHeartbeat(), sequence=2))
        heard: list[int] = []
        with pytest.raises(aio.AioRpcError):
            await _note_acks(call, heard)
        assert 2 not in heard
    finally:
        await sql.execute("ALTER TABLE agents DROP CONSTRAINT stuck")


async def test_what_comes_behind_a_heartbeat_is_taken_but_acknowledged_after_it(
    admin: Client, registration: str, sql: asyncpg.Connection
) -> None:
    agent_id, agent = await admin.join(registration, "behind", labels={"pool": "behind"})
    call = await connect(agent)
    assert (await call.read()).acked_sequence == 1
    trigger = pipeline_pb2.TriggerPipelineRequest(pipeline_id=await one_step_pipeline(admin, "behind", pool="behind"))
    await admin.pipeline.TriggerPipeline(trigger, metadata=admin.metadata)
    [step] = (await call.read()).task_dispatch.step_runs
    async with asyncio.TaskGroup() as group, sql.transaction():
        await sql.execute("SELECT 1 FROM agents WHERE id = $1 FOR NO KEY UPDATE", agent_id)  # the heartbeat waits
        await call.write(agent_pb2.ConnectRequest(heartbeat=agent_pb2.ConnectHeartbeat(draining=True), sequence=2))
        started = agent_pb2.TaskStatus(step_run_id=step.step_run_id, status=steprun_pb2.STEP_RUN_STATUS_RUNNING)
        await call.write(agent_pb2.ConnectRequest(task_statuses=[started], sequence=3))
        while await sql.fetchval("SELECT status FROM step_runs WHERE id = $1", step.step_run_id) != "RUNNING":
            pass
        reading = group.create_task(call.read())
        await one_step_pipeline(admin, "meanwhile", pool="none")
        assert not reading.done()
    assert reading.result().acked_sequence == 3
    await close(call)


async def _note_acks(call: Any, heard: list[int]) -> None:
    while (message := await call.read()) is not aio.EOF:
        heard.append(message.acked_sequence)


async def next_settings(call: Any) -> agent_pb2.AgentSettings:
    message = await call.read()
    while not message.HasField("settings"):
        message = await call.read()
    settings: agent_pb2.AgentSettings = message.settings
    return settings


async def test_settings_that_another_server_changed_come_with_the_next_heartbeat(
    admin: Client, registration: str, sql: asyncpg.Connection
) -> None:
    agent_id, agent = await admin.join(registration, "elsewhere")
    call = await connect(agent)
    await call.read()
    await sql.execute("UPDATE agents SET drained = true, note = 'said elsewhere' WHERE id = $1", agent_id)
    await call.write(agent_pb2.ConnectRequest(heartbeat=agent_pb2.ConnectHeartbeat(), sequence=2))
    assert (await next_settings(call)).drain_reason == "said elsewhere"
    await close(call)


async def test_workspaces_that_nobody_needs_are_released_within_six_heartbeats(
    admin: Client, registration: str
) -> None:
    """What ends through another server tells nobody here; an id that nobody knows stands for such a job."""
    _, agent = await admin.join(registration, "tidy")
    call = await connect(agent)
    await call.read()
    kept = "00000000-0000-7000-8000-000000000007"
    for sequence in range(2, 7):
        heartbeat = agent_pb2.ConnectHeartbeat(workspace_job_ids=[kept])
        await call.write(agent_pb2.ConnectRequest(heartbeat=heartbeat, sequence=sequence))
    message = await call.read()
    while not message.released_job_ids:
        message = await call.read()
    assert list(message.released_job_ids) == [kept]
    await close(call)


async def test_a_client_that_numbers_nothing_gets_settings_with_its_first_dispatch(
    admin: Client, registration: str
) -> None:
    agent_id, agent = await admin.join(registration, "plain", labels={"pool": "plain"})
    call = agent.agent.Connect(metadata=agent.metadata)
    await call.write(agent_pb2.ConnectRequest(agent_id=agent_id, heartbeat=agent_pb2.ConnectHeartbeat()))
    trigger = pipeline_pb2.TriggerPipelineRequest(pipeline_id=await one_step_pipeline(admin, "plain", pool="plain"))
    await admin.pipeline.TriggerPipeline(trigger, metadata=admin.metadata)
    message = await call.read()
    assert (len(message.task_dispatch.step_runs), message.settings.lease_duration) == (1, 30_000)
    await close(call)


async def test_an_agent_on_its_channel_is_told_by_config_updates(admin: Client, registration: str) -> None:
    agent_id, agent = await admin.join(registration, "configured")
    call = agent.stream.AgentChannel(metadata=agent.metadata)
    await call.write(stream_pb2.AgentChannelRequest(heartbeat=stream_pb2.HeartbeatData()))
    assert (await call.read()).heartbeat_ack.success
    await drain(admin, agent_id, "upgrade")
    update = (await call.read()).config_update
    assert (update.heartbeat_interval, dict(update.config)) == (
        10_000,
        {"lease_duration": "30000", "drain": "true", "drain_reason": "upgrade", "rotate_credential": "false"},
    )
    await close(call)
    again = agent.stream.AgentChannel(metadata=agent.metadata)
    assert (await again.read()).config_update.config["drain"] == "true"
    await close(again)


async def test_an_agent_without_a_channel_hears_of_cancellations_at_its_heartbeat(
    admin: Client, registration: str
) -> None:
    agent_id, agent = await admin.join(registration, "pulling", labels={"pool": "pulling"})
    trigger = pipeline_pb2.TriggerPipelineRequest(pipeline_id=await one_step_pipeline(admin, "pulling", pool="pulling"))
    await admin.pipeline.TriggerPipeline(trigger, metadata=admin.metadata)
    step = await take_one(agent)
    report = agent_pb2.ReportStepRunStatusRequest(
        step_run_id=step.step_run_id, status=steprun_pb2.STEP_RUN_STATUS_RUNNING
    )
    await agent.agent.ReportStepRunStatus(report, metadata=agent.metadata)
    answer = await beat(agent)
    assert (list(answer.task_cancels), answer.message, answer.settings.lease_duration) == ([], "ok", 30_000)
    cancel = agent_pb2.CancelStepRunRequest(step_run_id=step.step_run_id, reason="enough")
    await admin.agent.CancelStepRun(cancel, metadata=admin.metadata)
    cancels = (await beat(agent, metrics={"cpu_usage": "7"}, draining=True)).task_cancels
    assert [(one.step_run_id, one.reason) for one in cancels] == [(step.step_run_id, "enough")]
    wanted = admin_pb2.GetAgentRequest(agent_id=agent_id)
    shown = (await admin.admin.GetAgent(wanted, metadata=admin.metadata)).agent
    assert (dict(shown.metrics), shown.status, shown.draining) == (
        {"cpu_usage": "7"},
        agent_pb2.AGENT_STATUS_DRAINING,
        False,
    )


async def test_watchers_see_what_an_agent_is_and_what_becomes_of_it(admin: Client, registration: str) -> None:
    agent_id, agent = await admin.join(
        registration, "seen", labels={"pool": "claimed", "os": "linux"}, max_concurrent_step_runs=3
    )
    labels = admin_pb2.SetAgentLabelsRequest(agent_id=agent_id, labels={"pool": "given"}, merge=True)
    given = (await admin.admin.SetAgentLabels(labels, metadata=admin.metadata)).agent
    assert (dict(given.labels), dict(given.claimed_labels), dict(given.server_labels)) == (
        {"pool": "given", "os": "linux"},
        {"pool": "claimed", "os": "linux"},
        {"pool": "given"},
    )
    channel = await connect(agent, metrics={"cpu_usage": "12.5", "temperature": "40"})
    await channel.read()
    await beat(agent)
    request = stream_pb2.StreamAgentStatusRequest(agent_ids=[agent_id])
    call = admin.stream.StreamAgentStatus(request, metadata=admin.metadata)
    now = await call.read()
    assert (now.hostname, dict(now.labels)) == ("seen", {"pool": "given", "os": "linux"})
    assert (now.metrics.cpu_usage, dict(now.metrics.custom_metrics)) == (12.5, {"temperature": "40"})
    assert now.status == stream_pb2.AGENT_STATUS_IDLE
    await drain(admin, agent_id)
    told = await call.read()
    assert (told.status, told.previous_status) == (stream_pb2.AGENT_STATUS_DRAINING, stream_pb2.AGENT_STATUS_IDLE)
    disable = admin_pb2.DisableAgentRequest(agent_id=agent_id)
    await admin.admin.DisableAgent(disable, metadata=admin.metadata)
    assert (await call.read()).status == stream_pb2.AGENT_STATUS_DISABLED
    call.cancel()
    await call.code()
    await close(channel)


async def test_a_credential_is_rotated(admin: Client, registration: str, sql: asyncpg.Connection) -> None:
    agent_id, agent = await admin.join(registration, "rotating")
    assert not (await beat(agent)).settings.rotate_credential
    half = "UPDATE tokens SET created_at = created_at - interval '13 h', expires_at = expires_at - interval '13 h'"
    await sql.execute(f"{half} WHERE agent_id = $1", agent_id)
    assert (await beat(agent)).settings.rotate_credential
    call = await connect(agent)
    assert (await call.read()).settings.rotate_credential
    request = agent_pb2.RotateCredentialRequest(agent_id=agent_id)
    answer = await agent.agent.RotateCredential(request, metadata=agent.metadata)
    assert 23 * 3_600 < answer.token_expires_at - time.time() < 25 * 3_600
    assert 500 < answer.old_token_expires_at - time.time() < 700
    renewed = admin.as_caller(answer.auth_token)
    assert not (await beat(renewed)).settings.rotate_credential
    await beat(agent)
    # When the old one has ended, what was opened with it ends too.
    await sql.execute("UPDATE tokens SET expires_at = clock_timestamp() WHERE id = $1", agent.token.split("_")[2])
    assert await end_of(call) == (grpc.StatusCode.UNAUTHENTICATED, "credential expired")
    code, _, _ = await refusal(agent.agent.Heartbeat(agent_pb2.HeartbeatRequest(), metadata=agent.metadata))
    assert code == grpc.StatusCode.UNAUTHENTICATED
    await beat(renewed)


async def test_streams_of_a_revoked_credential_end(
    server: Server, admin: Client, registration: str, sql: asyncpg.Connection
) -> None:
    user = admin.as_caller(await server.command("token", "create", "--role", "viewer", "--name", "eve"))
    _, agent = await admin.join(registration, "revoked")
    watch = user.stream.StreamAgentStatus(stream_pb2.StreamAgentStatusRequest(), metadata=user.metadata)
    pulling = agent.stream.AgentChannel(metadata=agent.metadata)
    await pulling.write(stream_pb2.AgentChannelRequest(heartbeat=stream_pb2.HeartbeatData()))
    pushing = agent.gateway.PushLogs(metadata=agent.metadata)
    await watch.read()
    await pulling.read()
    ids = [one.token.split("_")[2] for one in (user, agent)]
    await sql.execute("UPDATE tokens SET revoked_at = clock_timestamp() WHERE id = ANY($1)", ids)
    for call in (watch, pulling):
        assert await end_of(call) == (grpc.StatusCode.UNAUTHENTICATED, "credential revoked")
    assert await pushing.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_step_that_one_agent_refuses_goes_to_another(admin: Client, registration: str) -> None:
    calls = {}
    for name in ("first", "second"):
        _, agent = await admin.join(registration, name, labels={"pool": "choosy"})
        calls[name] = await connect(agent)
        await calls[name].read()
    trigger = pipeline_pb2.TriggerPipelineRequest(pipeline_id=await one_step_pipeline(admin, "choosy", pool="choosy"))
    await admin.pipeline.TriggerPipeline(trigger, metadata=admin.metadata)
    async with asyncio.TaskGroup() as group:
        reading = {group.create_task(calls[name].read()): name for name in calls}
        [done], [other] = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        [step] = done.result().task_dispatch.step_runs
        ack = agent_pb2.TaskAck(command_id=step.command_id, status=agent_pb2.ACK_STATUS_FAILED, message="not here")
        await calls[reading[done]].write(agent_pb2.ConnectRequest(task_acks=[ack], sequence=2))
    [again] = other.result().task_dispatch.step_runs
    assert (again.step_run_id, again.command_id == step.command_id) == (step.step_run_id, False)
    await close(*calls.values())
