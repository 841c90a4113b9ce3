"""What the tests of the whole system do with pipelines and runs, over gRPC."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.stream.v1 import stream_pb2
from tests.support.server import Client

SUCCESS = pipeline_pb2.PIPELINE_STATUS_SUCCESS
FAILED = pipeline_pb2.PIPELINE_STATUS_FAILED
CANCELLED = pipeline_pb2.PIPELINE_STATUS_CANCELLED
RUNNING = pipeline_pb2.PIPELINE_STATUS_RUNNING


def document(name: str, *scripts: str, **job: Any) -> str:
    """Return the definition of a pipeline with one job, of a step for each script."""
    steps = [
        {"name": f"step-{number}", "uses": "shell", "args": {"script": script}}
        for number, script in enumerate(scripts, 1)
    ]
    return json.dumps({"name": name, "jobs": [{"name": "job", "steps": steps, **job}]})


async def apply(client: Client, definition: str) -> str:
    """Create or change a pipeline; return its id."""
    request = pipeline_pb2.ApplyPipelineRequest(document=definition)
    answer = await client.pipeline.ApplyPipeline(request, metadata=client.metadata)
    return str(answer.pipeline_id)


async def trigger(client: Client, pipeline_id: str, **fields: Any) -> str:
    """Start a run; return its id."""
    request = pipeline_pb2.TriggerPipelineRequest(pipeline_id=pipeline_id, **fields)
    answer = await client.pipeline.TriggerPipeline(request, metadata=client.metadata)
    return str(answer.run_id)


async def start(client: Client, definition: str) -> pipeline_pb2.PipelineRunDetail:
    """Create a pipeline and start a run of it."""
    return await get_run(client, await trigger(client, await apply(client, definition)))


async def get_run(client: Client, run_id: str) -> pipeline_pb2.PipelineRunDetail:
    request = pipeline_pb2.GetPipelineRunRequest(run_id=run_id)
    answer: pipeline_pb2.GetPipelineRunResponse = await client.pipeline.GetPipelineRun(
        request, metadata=client.metadata, wait_for_ready=True
    )
    return answer.run


async def end_of(client: Client, run_id: str) -> pipeline_pb2.PipelineRunDetail:
    """Wait until a run has ended: its stream ends then."""
    [run] = await ends_of(client, [run_id])
    return run


async def ends_of(client: Client, run_ids: Sequence[str]) -> list[pipeline_pb2.PipelineRunDetail]:
    """Wait until all of these runs have ended."""
    request = stream_pb2.StreamPipelineStatusRequest(pipeline_run_ids=run_ids)
    async for _ in client.stream.StreamPipelineStatus(request, metadata=client.metadata, wait_for_ready=True):
        pass
    return [await get_run(client, run_id) for run_id in run_ids]


def steps_of(run: pipeline_pb2.PipelineRunDetail) -> list[pipeline_pb2.StepRunDetail]:
    return [step for job in run.job_runs for step in job.step_runs]


def step_of(run: pipeline_pb2.PipelineRunDetail) -> pipeline_pb2.StepRunDetail:
    """Return the only step of a run."""
    [step] = steps_of(run)
    return step


async def log_of(client: Client, step_run_id: str, *, until: bytes | None = None) -> bytes:
    """Read a log from its begin to its end, or until it has a text; fail if it has a hole or a repeat."""
    request = stream_pb2.StreamStepRunLogsRequest(step_run_id=step_run_id, follow=until is not None)
    log = b""
    call = client.stream.StreamStepRunLogs(request, metadata=client.metadata, wait_for_ready=True)
    async for part in call:
        assert (part.offset, part.lost_bytes) == (len(log), 0)
        log += part.data
        if until is not None and until in log:
            call.cancel()
            break
    return log
