"""What the server says no to, through real stubs: each refusal has its status, its reason, and no side effect."""

from typing import Any
from uuid import uuid1

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from arcentra_server.rpc.interceptors.guard import MOST_STREAMS
from arcentra_server.rpc.policy import POLICY, PUBLIC
from tests.support.server import Client, Server, client_of
from tests.support.work import one_step_pipeline, take_one

NOBODY = str(uuid1())


def raw_channel(server: Server) -> Any:
    """A channel for bytes, which the types of stubs know nothing of."""
    return aio.insecure_channel(server.grpc)


async def answer(call: Any) -> None:
    """Wait for the end of a call, whatever kind it is."""
    if hasattr(call, "__aiter__"):
        async for _ in call:
            pass
    else:
        await call


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, list[str]]:
    """Make a call that must be refused; return its status, its reason, and the field paths it names."""
    with pytest.raises(aio.AioRpcError) as caught:
        await answer(call)
    status = await rpc_status.aio.from_call(call)
    reason, paths = "", []
    for detail in status.details if status else ():
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            paths = [violation.field for violation in bad.field_violations]
    return caught.value.code(), reason, paths


@pytest.mark.parametrize(
    ("service", "method", "request_message"),
    [
        ("pipeline", "GetPipeline", pipeline_pb2.GetPipelineRequest(pipeline_id=NOBODY)),
        ("pipeline", "GetPipeline", pipeline_pb2.GetPipelineRequest(namespace="default", name="nobody")),
        ("pipeline", "UpdatePipeline", pipeline_pb2.UpdatePipelineRequest(pipeline_id=NOBODY)),
        ("pipeline", "DeletePipeline", pipeline_pb2.DeletePipelineRequest(pipeline_id=NOBODY)),
        ("pipeline", "TriggerPipeline", pipeline_pb2.TriggerPipelineRequest(pipeline_id=NOBODY)),
        ("pipeline", "StopPipeline", pipeline_pb2.StopPipelineRequest(run_id=NOBODY)),
        ("pipeline", "PausePipeline", pipeline_pb2.PausePipelineRequest(run_id=NOBODY)),
        ("pipeline", "ResumePipeline", pipeline_pb2.ResumePipelineRequest(run_id=NOBODY)),
        ("pipeline", "GetPipelineRun", pipeline_pb2.GetPipelineRunRequest(run_id=NOBODY)),
        ("pipeline", "GetPipelineRun", pipeline_pb2.GetPipelineRunRequest(run_id="no id at all")),
        ("step_run", "GetStepRun", steprun_pb2.GetStepRunRequest(step_run_id=NOBODY)),
        ("step_run", "UpdateStepRun", steprun_pb2.UpdateStepRunRequest(step_run_id=NOBODY)),
        ("step_run", "DeleteStepRun", steprun_pb2.DeleteStepRunRequest(step_run_id=NOBODY)),
        ("step_run", "CancelStepRun", steprun_pb2.CancelStepRunRequest(step_run_id=NOBODY)),
        ("step_run", "RetryStepRun", steprun_pb2.RetryStepRunRequest(step_run_id=NOBODY)),
        ("step_run", "ListStepRunArtifacts", steprun_pb2.ListStepRunArtifactsRequest(step_run_id=NOBODY)),
        ("agent", "CancelStepRun", agent_pb2.CancelStepRunRequest(step_run_id=NOBODY)),
        ("agent", "CancelJobRun", agent_pb2.CancelJobRunRequest(job_run_id=NOBODY)),
        ("stream", "StreamPipelineStatus", stream_pb2.StreamPipelineStatusRequest(pipeline_run_ids=[NOBODY])),
        ("stream", "StreamStepRunLogs", stream_pb2.StreamStepRunLogsRequest(step_run_id=NOBODY)),
    ],
)
async def test_an_unknown_id_is_not_found(admin: Client, service: str, method: str, request_message: Any) -> None:
    call = getattr(getattr(admin, service), method)(request_message, metadata=admin.metadata)
    code, reason, _ = await refusal(call)
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


@pytest.mark.parametrize(
    ("service", "method", "request_message", "path"),
    [
        ("pipeline", "GetPipeline", pipeline_pb2.GetPipelineRequest(), "pipeline_id"),
        ("pipeline", "TriggerPipeline", pipeline_pb2.TriggerPipelineRequest(), "pipeline_id"),
        ("pipeline", "StopPipeline", pipeline_pb2.StopPipelineRequest(), "run_id"),
        ("pipeline", "GetPipelineRun", pipeline_pb2.GetPipelineRunRequest(), "run_id"),
        ("pipeline", "ApplyPipeline", pipeline_pb2.ApplyPipelineRequest(), "document"),
        ("pipeline", "ListPipelines", pipeline_pb2.ListPipelinesRequest(page_size=101), "page_size"),
        ("pipeline", "ListPipelineRuns", pipeline_pb2.ListPipelineRunsRequest(sort_by="; drop table"), "sort_by"),
        ("pipeline", "ListPipelineRuns", pipeline_pb2.ListPipelineRunsRequest(pipeline_id="x"), "pipeline_id"),
        ("step_run", "GetStepRun", steprun_pb2.GetStepRunRequest(), "step_run_id"),
        ("step_run", "ListStepRuns", steprun_pb2.ListStepRunsRequest(page=-1), "page"),
        ("step_run", "CreateStepRun", steprun_pb2.CreateStepRunRequest(), "pipeline_run_id"),
    ],
)
async def test_a_missing_or_wrong_field_is_named(
    admin: Client, service: str, method: str, request_message: Any, path: str
) -> None:
    call = getattr(getattr(admin, service), method)(request_message, metadata=admin.metadata)
    code, reason, paths = await refusal(call)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert path in paths


async def test_every_fault_of_a_definition_is_named(admin: Client) -> None:
    request = pipeline_pb2.CreatePipelineRequest(name="no good name!", jobs=[pipeline_pb2.Job(name="a")])
    request.jobs.add(name="a").steps.add(name="s", uses="shell", timeout="soon")
    _, _, paths = await refusal(admin.pipeline.CreatePipeline(request, metadata=admin.metadata))
    assert {"name", "jobs[0].steps", "jobs[1].name", "jobs[1].steps[0].timeout"} <= set(paths)


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "Bearer nothing"),),
        (("authorization", "Bearer arc_pat_abc_def"),),
        (("authorization", "Basic abc"),),
        (("authorization", "Bearer arc_pat_x_y"), ("authorization", "Bearer arc_pat_z_y")),
    ],
    ids=["none", "no token", "unknown token", "other scheme", "two identities"],
)
async def test_a_missing_or_wrong_token_is_unauthenticated(admin: Client, metadata: Any) -> None:
    code, reason, _ = await refusal(
        admin.pipeline.ListPipelines(pipeline_pb2.ListPipelinesRequest(), metadata=metadata)
    )
    assert code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert reason in ("UNAUTHENTICATED", "LIMIT_EXCEEDED")


async def test_a_registration_token_opens_nothing_but_the_registration(admin: Client, registration: str) -> None:
    stranger = admin.as_caller(registration)
    call = stranger.pipeline.ListPipelines(pipeline_pb2.ListPipelinesRequest(), metadata=stranger.metadata)
    assert (await refusal(call))[0] is grpc.StatusCode.UNAUTHENTICATED
    call = admin.agent.Register(agent_pb2.RegisterRequest(registration_token="arc_reg_aaaa_bbbb", agent_name="x"))
    assert (await refusal(call))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_the_roles_of_users_and_agents_are_apart(server: Server, admin: Client, registration: str) -> None:
    agent_id, agent = await admin.join(registration)
    call = agent.pipeline.ListPipelines(pipeline_pb2.ListPipelinesRequest(), metadata=agent.metadata)
    assert (await refusal(call))[0] is grpc.StatusCode.PERMISSION_DENIED
    call = admin.agent.Heartbeat(agent_pb2.HeartbeatRequest(agent_id=agent_id), metadata=admin.metadata)
    assert (await refusal(call))[0] is grpc.StatusCode.PERMISSION_DENIED
    viewer = admin.as_caller(await server.command("token", "create", "--role", "viewer", "--name", "v"))
    call = viewer.pipeline.TriggerPipeline(
        pipeline_pb2.TriggerPipelineRequest(pipeline_id=NOBODY), metadata=viewer.metadata
    )
    assert (await refusal(call))[0] is grpc.StatusCode.PERMISSION_DENIED
    assert await call.details() == "the role viewer may not do this: it takes trigger, maintainer or admin"


async def test_an_agent_acts_for_itself_only(admin: Client, registration: str) -> None:
    one_id, _ = await admin.join(registration, "one")
    _, two = await admin.join(registration, "two")
    call = two.agent.Heartbeat(agent_pb2.HeartbeatRequest(agent_id=one_id), metadata=two.metadata)
    assert (await refusal(call))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_an_agent_cannot_report_the_step_of_another(admin: Client, registration: str) -> None:
    _, holder = await admin.join(registration, "holder", labels={"pool": "refusals-1"})
    _, other = await admin.join(registration, "other")
    pipeline_id = await one_step_pipeline(admin, "refusals-1", pool="refusals-1")
    await admin.pipeline.TriggerPipeline(
        pipeline_pb2.TriggerPipelineRequest(pipeline_id=pipeline_id), metadata=admin.metadata
    )
    step = await take_one(holder)
    for step_run_id in (step.step_run_id, NOBODY):
        report = agent_pb2.ReportStepRunStatusRequest(
            step_run_id=step_run_id, status=steprun_pb2.STEP_RUN_STATUS_RUNNING
        )
        code, reason, _ = await refusal(other.agent.ReportStepRunStatus(report, metadata=other.metadata))
        assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_LEASED")


async def test_a_stale_report_changes_nothing(admin: Client, registration: str) -> None:
    _, agent = await admin.join(registration, "stale", labels={"pool": "refusals-2"})
    pipeline_id = await one_step_pipeline(admin, "refusals-2", pool="refusals-2")
    await admin.pipeline.TriggerPipeline(
        pipeline_pb2.TriggerPipelineRequest(pipeline_id=pipeline_id), metadata=admin.metadata
    )
    step = await take_one(agent)

    def report(status: int, **fields: Any) -> Any:
        message = agent_pb2.ReportStepRunStatusRequest(step_run_id=step.step_run_id, status=status, **fields)  # type: ignore[arg-type]
        return agent.agent.ReportStepRunStatus(message, metadata=agent.metadata)

    running, done = steprun_pb2.STEP_RUN_STATUS_RUNNING, steprun_pb2.STEP_RUN_STATUS_SUCCESS
    assert await refusal(report(running, lease_token="of another lease")) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "LEASE_LOST",
        [],
    )
    assert await refusal(report(running, attempt=7)) == (grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST", [])
    assert (await refusal(report(done)))[0] is grpc.StatusCode.FAILED_PRECONDITION
    await report(running, lease_token=step.lease_token, attempt=step.attempt)
    await report(done)
    await report(done)  # the same again is not an error
    code, reason, _ = await refusal(report(steprun_pb2.STEP_RUN_STATUS_FAILED))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INVALID_TRANSITION")


@pytest.mark.parametrize("method", sorted(set(POLICY) - {m for m in POLICY if m.startswith("/grpc.")}))
async def test_garbage_is_an_invalid_argument(server: Server, admin: Client, registration: str, method: str) -> None:
    token = admin.token
    if "agent" in {role.value for role in POLICY[method]} and "admin" not in {role.value for role in POLICY[method]}:
        _, agent = await admin.join(registration)
        token = agent.token
    metadata = () if POLICY[method] is PUBLIC else (("authorization", f"Bearer {token}"),)
    async with raw_channel(server) as channel:

        async def garbage() -> Any:
            yield b"\xff\xff\xff\xff"

        name = method.rpartition("/")[2]
        if name in ("Connect", "AgentChannel"):
            call: Any = channel.stream_stream(method)(garbage(), metadata=metadata)
        elif name in ("PushLogs", "PushEvents"):
            call = channel.stream_unary(method)(garbage(), metadata=metadata)
        elif name.startswith("Stream"):
            call = channel.unary_stream(method)(b"\xff\xff\xff\xff", metadata=metadata)
        else:
            call = channel.unary_unary(method)(b"\xff\xff\xff\xff", metadata=metadata)
        code, _, _ = await refusal(call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_method_that_does_not_exist_is_unimplemented(server: Server) -> None:
    async with raw_channel(server) as channel:
        for path in ("/agent.v1.AgentService/Nothing", "agent.v1.AgentService/Heartbeat", "/", "//"):
            with pytest.raises(aio.AioRpcError) as caught:
                await channel.unary_unary(path)(b"")
            assert caught.value.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNKNOWN)


async def test_health_needs_no_token(server: Server) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    async with client_of(server, token="") as client:
        stub: Any = health_pb2_grpc.HealthStub(client.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service="agent.v1.AgentService"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_one_credential_cannot_take_all_streams(server: Server, admin: Client) -> None:
    viewer = admin.as_caller(await server.command("token", "create", "--role", "viewer", "--name", "watcher"))
    calls = []
    try:
        for _ in range(MOST_STREAMS):
            call = viewer.stream.StreamEvents(stream_pb2.StreamEventsRequest(), metadata=viewer.metadata)
            await call.initial_metadata()
            calls.append(call)
        one_more = viewer.stream.StreamEvents(stream_pb2.StreamEventsRequest(), metadata=viewer.metadata)
        code, reason, _ = await refusal(one_more)
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    finally:
        for call in calls:
            call.cancel()
        assert {await call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
