"""Every method of the contract answers for real, through real stubs, on the straight path."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc import aio

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.gateway.v1 import gateway_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from tests.support.server import Client
from tests.support.work import one_step_pipeline, take_one

RUNNING, SUCCESS = steprun_pb2.STEP_RUN_STATUS_RUNNING, steprun_pb2.STEP_RUN_STATUS_SUCCESS
FAILED, CANCELLED = steprun_pb2.STEP_RUN_STATUS_FAILED, steprun_pb2.STEP_RUN_STATUS_CANCELLED


async def trigger(admin: Client, pipeline_id: str) -> Any:
    request = pipeline_pb2.TriggerPipelineRequest(pipeline_id=pipeline_id)
    return await admin.pipeline.TriggerPipeline(request, metadata=admin.metadata)


async def run_of(admin: Client, run_id: str) -> pipeline_pb2.PipelineRunDetail:
    request = pipeline_pb2.GetPipelineRunRequest(run_id=run_id)
    answer: pipeline_pb2.GetPipelineRunResponse = await admin.pipeline.GetPipelineRun(request, metadata=admin.metadata)
    return answer.run


async def report(agent: Client, step_run_id: str, *statuses: Any) -> None:
    for status in statuses:
        message = agent_pb2.ReportStepRunStatusRequest(step_run_id=step_run_id, status=status)
        assert (await agent.agent.ReportStepRunStatus(message, metadata=agent.metadata)).success


async def first(call: Any) -> Any:
    """Return the first message of a stream, and end it."""
    message = await call.read()
    assert message is not aio.EOF
    call.cancel()
    await call.code()
    return message


async def test_pipelines_are_kept(admin: Client) -> None:
    pipeline_id = await one_step_pipeline(admin, "kept", pool="none")
    change = pipeline_pb2.UpdatePipelineRequest(pipeline_id=pipeline_id, description="changed", variables={"A": "1"})
    assert (await admin.pipeline.UpdatePipeline(change, metadata=admin.metadata)).success
    wanted = pipeline_pb2.GetPipelineRequest(pipeline_id=pipeline_id)
    shown = (await admin.pipeline.GetPipeline(wanted, metadata=admin.metadata)).pipeline
    assert (shown.description, shown.spec_version, dict(shown.variables)) == ("changed", 2, {"A": "1"})
    listed = await admin.pipeline.ListPipelines(pipeline_pb2.ListPipelinesRequest(), metadata=admin.metadata)
    assert pipeline_id in {pipeline.pipeline_id for pipeline in listed.pipelines}
    gone = pipeline_pb2.DeletePipelineRequest(pipeline_id=pipeline_id)
    assert (await admin.pipeline.DeletePipeline(gone, metadata=admin.metadata)).success


async def test_a_run_is_paused_resumed_and_stopped(admin: Client) -> None:
    pipeline_id = await one_step_pipeline(admin, "held", pool="none")
    run_id = (await trigger(admin, pipeline_id)).run_id
    pause = pipeline_pb2.PausePipelineRequest(run_id=run_id, reason="lunch")
    assert (await admin.pipeline.PausePipeline(pause, metadata=admin.metadata)).success
    assert (await run_of(admin, run_id)).status == pipeline_pb2.PIPELINE_STATUS_PAUSED
    resume = pipeline_pb2.ResumePipelineRequest(run_id=run_id)
    assert (await admin.pipeline.ResumePipeline(resume, metadata=admin.metadata)).success
    stop = pipeline_pb2.StopPipelineRequest(run_id=run_id, reason="enough")
    assert (await admin.pipeline.StopPipeline(stop, metadata=admin.metadata)).success
    wanted = pipeline_pb2.ListPipelineRunsRequest(
        pipeline_id=pipeline_id, status=pipeline_pb2.PIPELINE_STATUS_CANCELLED
    )
    listed = await admin.pipeline.ListPipelineRuns(wanted, metadata=admin.metadata)
    assert [run.run_id for run in listed.runs] == [run_id]


async def test_an_agent_pulls_reports_and_sends_logs_and_events(admin: Client, registration: str) -> None:
    agent_id, agent = await admin.join(registration, "puller", labels={"pool": "pull"})
    beat = agent_pb2.HeartbeatRequest(agent_id=agent_id)
    assert (await agent.agent.Heartbeat(beat, metadata=agent.metadata)).success
    labels = agent_pb2.UpdateLabelsRequest(agent_id=agent_id, labels={"gpu": "1"}, merge=True)
    assert (await agent.agent.UpdateLabels(labels, metadata=agent.metadata)).labels["pool"] == "pull"
    run_id = (await trigger(admin, await one_step_pipeline(admin, "pulled", pool="pull"))).run_id
    step = await take_one(agent)
    await report(agent, step.step_run_id, RUNNING)

    async def logs() -> AsyncIterator[gateway_pb2.PushLogsRequest]:
        yield gateway_pb2.PushLogsRequest(handshake=gateway_pb2.AgentHandshake(agent_id=agent_id))
        meta = gateway_pb2.Meta(agent_id=agent_id, step_id=step.step_run_id, seq=1)
        batch = gateway_pb2.LogBatch(batch_id="1", meta=meta, data=b"hello\n", raw_size=6)
        yield gateway_pb2.PushLogsRequest(batch=batch)

    async def events() -> AsyncIterator[gateway_pb2.PushEventsRequest]:
        yield gateway_pb2.PushEventsRequest(handshake=gateway_pb2.AgentHandshake(agent_id=agent_id))
        event = gateway_pb2.Event(event_id="e1", meta=gateway_pb2.Meta(agent_id=agent_id, seq=1), event_type="note")
        yield gateway_pb2.PushEventsRequest(batch=gateway_pb2.EventBatch(batch_id="1", events=[event]))

    for ack in (
        (await agent.gateway.PushLogs(logs(), metadata=agent.metadata)).ack,
        (await agent.gateway.PushEvents(events(), metadata=agent.metadata)).ack,
    ):
        assert (ack.status, ack.last_accepted_seq) == (gateway_pb2.IngestAck.STATUS_ACCEPTED, 1)
    job = agent_pb2.ReportJobRunStatusRequest(
        agent_id=agent_id,
        job_run_id=step.job_id,
        status=pipeline_pb2.PIPELINE_STATUS_RUNNING,
        artifact_uris={"report": "https://artifacts.example/report.html"},
    )
    assert (await agent.agent.ReportJobRunStatus(job, metadata=agent.metadata)).success
    await report(agent, step.step_run_id, SUCCESS)
    run = await run_of(admin, run_id)
    assert (run.status, run.completed_jobs) == (pipeline_pb2.PIPELINE_STATUS_SUCCESS, 1)
    wanted = steprun_pb2.ListStepRunArtifactsRequest(step_run_id=step.step_run_id)
    kept = await admin.step_run.ListStepRunArtifacts(wanted, metadata=admin.metadata)
    assert [(a.name, a.download_url) for a in kept.artifacts] == [("report", "https://artifacts.example/report.html")]
    follow = stream_pb2.StreamStepRunLogsRequest(step_run_id=step.step_run_id)
    log = [piece.data async for piece in admin.stream.StreamStepRunLogs(follow, metadata=admin.metadata)]
    assert b"".join(log) == b"hello\n"
    leave = agent_pb2.UnregisterRequest(agent_id=agent_id, reason="done")
    assert (await agent.agent.Unregister(leave, metadata=agent.metadata)).success
    with pytest.raises(aio.AioRpcError):
        await agent.agent.Heartbeat(beat, metadata=agent.metadata)


async def test_an_agent_connects(admin: Client, registration: str) -> None:
    agent_id, agent = await admin.join(registration, "pushed", labels={"pool": "push"}, max_concurrent_step_runs=2)
    call = agent.agent.Connect(metadata=agent.metadata)
    heartbeat = agent_pb2.ConnectHeartbeat(max_concurrent_step_runs=2)
    await call.write(agent_pb2.ConnectRequest(agent_id=agent_id, heartbeat=heartbeat, sequence=1))
    pipeline_id = await one_step_pipeline(admin, "pushed", pool="push", steps=2)
    run_id = (await trigger(admin, pipeline_id)).run_id
    sequence, done = 1, 0
    while done < 2:
        message = await call.read()
        for step in message.task_dispatch.step_runs:
            for status in (RUNNING, SUCCESS):
                sequence += 1
                said = agent_pb2.TaskStatus(
                    step_run_id=step.step_run_id, status=status, lease_token=step.lease_token, attempt=step.attempt
                )
                await call.write(agent_pb2.ConnectRequest(task_statuses=[said], sequence=sequence))
            done += 1
        assert not message.refusals
    while message.acked_sequence < sequence:
        message = await call.read()
    await call.done_writing()
    assert await call.code() is not None
    assert (await run_of(admin, run_id)).status == pipeline_pb2.PIPELINE_STATUS_SUCCESS


async def test_an_agent_gets_its_next_step_with_the_acknowledgement_of_the_last(
    admin: Client, registration: str
) -> None:
    agent_id, agent = await admin.join(registration, "in-one", labels={"pool": "in-one"})
    call = agent.agent.Connect(metadata=agent.metadata)
    beat = agent_pb2.ConnectHeartbeat(max_concurrent_step_runs=1)
    await call.write(agent_pb2.ConnectRequest(agent_id=agent_id, sequence=1, heartbeat=beat))
    assert (await call.read()).acked_sequence == 1
    await trigger(admin, await one_step_pipeline(admin, "in-one", pool="in-one", steps=3))
    [step] = (await call.read()).task_dispatch.step_runs
    for sequence in (2, 3):
        done = [agent_pb2.TaskStatus(step_run_id=step.step_run_id, status=status) for status in (RUNNING, SUCCESS)]
        await call.write(agent_pb2.ConnectRequest(agent_id=agent_id, sequence=sequence, task_statuses=done))
        message = await call.read()
        assert message.acked_sequence == sequence
        [step] = message.task_dispatch.step_runs
    call.cancel()
    await call.code()


async def test_an_agent_pulls_over_its_channel(admin: Client, registration: str) -> None:
    agent_id, agent = await admin.join(registration, "channel", labels={"pool": "channel"})
    call = agent.stream.AgentChannel(metadata=agent.metadata)
    await call.write(stream_pb2.AgentChannelRequest(agent_id=agent_id, heartbeat=stream_pb2.HeartbeatData()))
    assert (await call.read()).heartbeat_ack.success
    run_id = (await trigger(admin, await one_step_pipeline(admin, "channel", pool="channel", steps=2))).run_id
    for _ in range(2):
        fetch = stream_pb2.StepRunFetchRequest(max_step_runs=1)
        await call.write(stream_pb2.AgentChannelRequest(request_id="f", step_run_fetch=fetch))
        answer = await call.read()
        [step] = answer.step_run_assignment.step_runs
        assert answer.response_id == "f"
        for status in (RUNNING, SUCCESS):
            update = stream_pb2.StepRunStatusUpdate(step_run_id=step.step_run_id, status=status)
            await call.write(stream_pb2.AgentChannelRequest(step_run_status=update))
            assert (await call.read()).step_run_status_ack.accepted
    await call.done_writing()
    await call.code()
    assert (await run_of(admin, run_id)).status == pipeline_pb2.PIPELINE_STATUS_SUCCESS


async def test_step_runs_are_added_changed_cancelled_retried_and_deleted(admin: Client, registration: str) -> None:
    run_id = (await trigger(admin, await one_step_pipeline(admin, "steps", pool="steps"))).run_id
    added = steprun_pb2.CreateStepRunRequest(pipeline_run_id=run_id, job_name="job", step_name="more", uses="shell")
    added.args.update({"script": "true"})
    more = (await admin.step_run.CreateStepRun(added, metadata=admin.metadata)).step_run_id
    update = steprun_pb2.UpdateStepRunRequest(step_run_id=more, env={"MODE": "fast"}, timeout="5m")
    assert (await admin.step_run.UpdateStepRun(update, metadata=admin.metadata)).success
    shown = steprun_pb2.GetStepRunRequest(step_run_id=more)
    step_run = (await admin.step_run.GetStepRun(shown, metadata=admin.metadata)).step_run
    assert (step_run.env["MODE"], step_run.timeout) == ("fast", "5m")
    wanted = steprun_pb2.ListStepRunsRequest(pipeline_run_id=run_id, sort_by="name")
    listed = await admin.step_run.ListStepRuns(wanted, metadata=admin.metadata)
    assert [step.step_name for step in listed.step_runs] == ["more", "step-0"]
    one = listed.step_runs[1].step_run_id
    cancel = steprun_pb2.CancelStepRunRequest(step_run_id=one, reason="not now")
    assert (await admin.step_run.CancelStepRun(cancel, metadata=admin.metadata)).success
    assert (await run_of(admin, run_id)).status == pipeline_pb2.PIPELINE_STATUS_CANCELLED
    gone = steprun_pb2.DeleteStepRunRequest(step_run_id=more)
    assert (await admin.step_run.DeleteStepRun(gone, metadata=admin.metadata)).success
    again = steprun_pb2.RetryStepRunRequest(step_run_id=one)
    assert (await admin.step_run.RetryStepRun(again, metadata=admin.metadata)).new_step_run_id not in ("", one)
    _, agent = await admin.join(registration, "steps", labels={"pool": "steps"})
    step = await take_one(agent)
    await report(agent, step.step_run_id, RUNNING)
    by_agent_service = agent_pb2.CancelStepRunRequest(step_run_id=step.step_run_id, reason="enough")
    assert (await admin.agent.CancelStepRun(by_agent_service, metadata=admin.metadata)).success
    await report(agent, step.step_run_id, CANCELLED)
    assert (await run_of(admin, run_id)).status == pipeline_pb2.PIPELINE_STATUS_CANCELLED


async def test_a_job_is_cancelled(admin: Client) -> None:
    started = await trigger(admin, await one_step_pipeline(admin, "jobs", pool="none"))
    request = agent_pb2.CancelJobRunRequest(job_run_id=started.job_run_ids[0], reason="no need")
    assert (await admin.agent.CancelJobRun(request, metadata=admin.metadata)).success
    assert (await run_of(admin, started.run_id)).status == pipeline_pb2.PIPELINE_STATUS_CANCELLED


async def test_states_are_told_first_as_they_are(admin: Client, registration: str) -> None:
    agent_id, _ = await admin.join(registration, "watched")
    run_id = (await trigger(admin, await one_step_pipeline(admin, "watched", pool="none"))).run_id
    stream, metadata = admin.stream, admin.metadata
    step = await first(
        stream.StreamStepRunStatus(stream_pb2.StreamStepRunStatusRequest(pipeline_run_id=run_id), metadata=metadata)
    )
    assert (step.step_name, step.status) == ("step-0", steprun_pb2.STEP_RUN_STATUS_QUEUED)
    job = await first(
        stream.StreamJobStatus(stream_pb2.StreamJobStatusRequest(pipeline_run_id=run_id), metadata=metadata)
    )
    assert (job.job_name, job.total_steps) == ("job", 1)
    request = stream_pb2.StreamPipelineStatusRequest(pipeline_run_ids=[run_id])
    run = await first(stream.StreamPipelineStatus(request, metadata=metadata))
    assert (run.status, run.total_jobs) == (pipeline_pb2.PIPELINE_STATUS_PENDING, 1)
    seen = await first(
        stream.StreamAgentStatus(stream_pb2.StreamAgentStatusRequest(agent_ids=[agent_id]), metadata=metadata)
    )
    assert seen.status == stream_pb2.AGENT_STATUS_OFFLINE
    wanted = stream_pb2.StreamEventsRequest(resource_type="pipeline_run", resource_ids=[run_id])
    call = stream.StreamEvents(wanted, metadata=metadata)
    stop = pipeline_pb2.StopPipelineRequest(run_id=run_id)
    await call.initial_metadata()
    await admin.pipeline.StopPipeline(stop, metadata=metadata)
    message = await call.read()
    while message.event_type != stream_pb2.EVENT_TYPE_PIPELINE_CANCELLED:
        message = await call.read()
    assert message.resource_id == run_id
    call.cancel()
    await call.code()
