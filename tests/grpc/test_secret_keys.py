"""A server whose key does not fit the secrets that are stored: it starts, says so, and fails the steps that need them."""

import os
from pathlib import Path
from typing import Any

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from arcentra_server.db.engine import Database
from arcentra_server.domain.secret_box import KeyRing
from arcentra_server.domain.secret_names import SecretScope
from tests.support.postgres import Databases
from tests.support.secret_keys import secret_service
from tests.support.server import Client, client_of, running_server
from tests.support.work import take_one

SUCCESS, FAILED = pipeline_pb2.PIPELINE_STATUS_SUCCESS, pipeline_pb2.PIPELINE_STATUS_FAILED


async def trigger(admin: Client, name: str, secrets: dict[str, str]) -> str:
    job = pipeline_pb2.Job(name="job")
    job.steps.add(name="step", uses="shell", secrets=secrets).args.update({"script": "true"})
    request = pipeline_pb2.CreatePipelineRequest(name=name, jobs=[job])
    pipeline_id = (await admin.pipeline.CreatePipeline(request, metadata=admin.metadata)).pipeline_id
    start = pipeline_pb2.TriggerPipelineRequest(pipeline_id=pipeline_id)
    return str((await admin.pipeline.TriggerPipeline(start, metadata=admin.metadata)).run_id)


async def ended(admin: Client, run_id: str) -> Any:
    """The run once it has ended."""
    request = stream_pb2.StreamPipelineStatusRequest(pipeline_run_ids=[run_id])
    async for _ in admin.stream.StreamPipelineStatus(request, metadata=admin.metadata):
        pass
    answer = await admin.pipeline.GetPipelineRun(
        pipeline_pb2.GetPipelineRunRequest(run_id=run_id), metadata=admin.metadata
    )
    return answer.run


async def test_secret_steps_fail_and_all_others_run(databases: Databases, tmp_path: Path) -> None:
    async with databases.clone() as dsn:
        async with Database(dsn) as database:
            service = secret_service(database, KeyRing({"lost": os.urandom(32)}))
            await service.set(SecretScope(), "TOKEN", "planted-value", "t")
        async with running_server(tmp_path / "data", "--database-url", dsn) as server, client_of(server) as admin:
            said = server.log.read_text()
            assert "secrets_unreadable" in said
            assert "lost" in said
            _, agent = await admin.join(await server.command("registration-token", "create"))
            needy = await trigger(admin, "needy", {"TOKEN": "TOKEN"})
            modest = await trigger(admin, "modest", {})
            step = await take_one(agent)
            for status in (steprun_pb2.STEP_RUN_STATUS_RUNNING, steprun_pb2.STEP_RUN_STATUS_SUCCESS):
                report = agent_pb2.ReportStepRunStatusRequest(step_run_id=step.step_run_id, status=status)
                await agent.agent.ReportStepRunStatus(report, metadata=agent.metadata)
            assert (await ended(admin, modest)).status == SUCCESS
            run = await ended(admin, needy)
            assert run.status == FAILED
            [failed] = run.job_runs[0].step_runs
            assert "secret TOKEN: secret key unavailable" in failed.error_message
