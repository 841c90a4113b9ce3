"""Large steps over the wire, to clients that take messages of 4 MiB as gRPC does by default: all start, or say why not."""

from typing import Any

import pytest
from grpc import aio

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from tests.support.processes import until
from tests.support.server import Client

LARGEST_VALUE = 64 * 1024
LARGE, TOO_LARGE = 40, 80  # secrets of a step: 2.5 MiB, which is a message of its own, and 5 MiB
JOBS = 4


@pytest.fixture
async def secret(admin: Client) -> str:
    request = admin_pb2.SetSecretRequest(name="LARGE", value="x" * LARGEST_VALUE)
    await admin.admin.SetSecret(request, metadata=admin.metadata)
    return "LARGE"


async def start(admin: Client, pool: str, secret: str, *counts: int) -> str:
    """Trigger a run with a job for each count of secrets; return its id."""
    request = pipeline_pb2.CreatePipelineRequest(name=pool)
    for number, count in enumerate(counts):
        job = request.jobs.add(name=f"job-{number}")
        job.agent_selector.match_labels["pool"] = pool
        step = job.steps.add(name=f"step-{number}", uses="shell")
        step.args.update({"script": "true"})
        step.secrets.update({f"S{index}": secret for index in range(count)})
    created = await admin.pipeline.CreatePipeline(request, metadata=admin.metadata)
    trigger = pipeline_pb2.TriggerPipelineRequest(pipeline_id=created.pipeline_id)
    return str((await admin.pipeline.TriggerPipeline(trigger, metadata=admin.metadata)).run_id)


async def steps(admin: Client, run_id: str) -> dict[str, Any]:
    request = pipeline_pb2.GetPipelineRunRequest(run_id=run_id)
    run = (await admin.pipeline.GetPipelineRun(request, metadata=admin.metadata)).run
    return {step.step_name: step for job in run.job_runs for step in job.step_runs}


async def report(agent: Client, step_run_id: str) -> None:
    status = steprun_pb2.STEP_RUN_STATUS_RUNNING
    request = agent_pb2.ReportStepRunStatusRequest(step_run_id=step_run_id, status=status)
    await agent.agent.ReportStepRunStatus(request, metadata=agent.metadata)


def heartbeat(sequence: int) -> agent_pb2.ConnectRequest:
    return agent_pb2.ConnectRequest(
        heartbeat=agent_pb2.ConnectHeartbeat(max_concurrent_step_runs=JOBS), sequence=sequence
    )


async def names_sent(call: Any, count: int) -> tuple[list[str], list[int]]:
    """Read Connect until it sent so many step runs; return their names and the step runs of each message with some."""
    names: list[str] = []
    portions = []
    while len(names) < count:
        message = await call.read()
        assert message is not aio.EOF
        runs = message.task_dispatch.step_runs
        assert all(len(run.secrets) == LARGE and len(run.secrets["S0"]) == LARGEST_VALUE for run in runs)
        names += [run.step_name for run in runs]
        portions += [len(runs)] if runs else []
    return names, portions


async def end(call: Any) -> None:
    await call.done_writing()
    while await call.read() is not aio.EOF:
        pass


async def test_large_steps_of_one_agent_come_in_several_messages_and_again_when_it_is_back(
    admin: Client, registration: str, secret: str
) -> None:
    _, agent = await admin.join(registration, "large", labels={"!pool": "large"}, max_concurrent_step_runs=JOBS)
    run_id = await start(admin, "large", secret, *[LARGE] * JOBS)
    for _ in range(2):
        call = agent.agent.Connect(metadata=agent.metadata)
        await call.write(heartbeat(1))
        names, portions = await names_sent(call, JOBS)
        assert sorted(names) == [f"step-{number}" for number in range(JOBS)]
        assert portions == [1] * JOBS
        await end(call)
    for step in (await steps(admin, run_id)).values():
        await report(agent, step.step_run_id)
    assert {step.status for step in (await steps(admin, run_id)).values()} == {pipeline_pb2.PIPELINE_STATUS_RUNNING}


async def test_step_that_no_message_holds_fails_and_says_why(admin: Client, registration: str, secret: str) -> None:
    _, agent = await admin.join(registration, "small", labels={"!pool": "small"}, max_concurrent_step_runs=JOBS)
    call = agent.agent.Connect(metadata=agent.metadata)
    await call.write(heartbeat(1))
    run_id = await start(admin, "small", secret, TOO_LARGE, LARGE)
    assert (await names_sent(call, 1))[0] == ["step-1"]

    async def failed() -> bool:
        return bool((await steps(admin, run_id))["step-0"].status == pipeline_pb2.PIPELINE_STATUS_FAILED)

    await until(failed)
    step = (await steps(admin, run_id))["step-0"]
    assert step.failure_reason == "validation"
    assert "3,145,728" in step.error_message
    await end(call)


async def test_large_steps_come_to_those_that_pull_fetch_by_fetch(
    admin: Client, registration: str, secret: str
) -> None:
    _, agent = await admin.join(registration, "pulls", labels={"!pool": "pulls"}, max_concurrent_step_runs=JOBS)
    run_id = await start(admin, "pulls", secret, *[LARGE] * JOBS)
    names = []
    for _ in range(JOBS // 2):
        request = agent_pb2.FetchStepRunRequest(max_step_runs=100, wait_seconds=20)
        found = (await agent.agent.FetchStepRun(request, metadata=agent.metadata)).step_runs
        names += [run.step_name for run in found]
    call = agent.stream.AgentChannel(metadata=agent.metadata)
    for _ in range(JOBS // 2):
        fetch = stream_pb2.StepRunFetchRequest(max_step_runs=100)
        await call.write(stream_pb2.AgentChannelRequest(step_run_fetch=fetch))
        while not (found := (await call.read()).step_run_assignment.step_runs):
            pass
        names += [run.step_name for run in found]
    assert sorted(names) == [f"step-{number}" for number in range(JOBS)]
    for step in (await steps(admin, run_id)).values():
        await report(agent, step.step_run_id)
    await end(call)
