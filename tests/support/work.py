"""Small pieces of work for tests on the wire."""

from __future__ import annotations

from typing import Any

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from tests.support.server import Client


async def one_step_pipeline(admin: Client, name: str, *, pool: str, script: str = "true", steps: int = 1) -> str:
    """Create a pipeline of one job, for agents with the label `pool`; return its id."""
    job = pipeline_pb2.Job(name="job")
    job.agent_selector.match_labels["pool"] = pool
    for index in range(steps):
        step = job.steps.add(name=f"step-{index}", uses="shell")
        step.args.update({"script": script})
    request = pipeline_pb2.CreatePipelineRequest(name=name, jobs=[job])
    answer = await admin.pipeline.CreatePipeline(request, metadata=admin.metadata)
    return str(answer.pipeline_id)


async def take_one(agent: Client) -> Any:
    """Fetch one step run as a pulling agent."""
    request = agent_pb2.FetchStepRunRequest(max_step_runs=1, wait_seconds=20)
    answer = await agent.agent.FetchStepRun(request, metadata=agent.metadata)
    assert len(answer.step_runs) == 1
    return answer.step_runs[0]
