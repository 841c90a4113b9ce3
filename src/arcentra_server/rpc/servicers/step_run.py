"""The step run service of the contract."""

from __future__ import annotations

from arcentra_api.steprun.v1 import steprun_pb2, steprun_pb2_grpc
from arcentra_server.rpc.context import Context, caller
from arcentra_server.rpc.convert import step_run as convert
from arcentra_server.rpc.convert.explain import explanation_to
from arcentra_server.rpc.convert.fields import plain_text, required_id
from arcentra_server.services.explain import ExplainService
from arcentra_server.services.step_runs import StepRunService


class StepRunServicer(steprun_pb2_grpc.StepRunServiceServicer):
    """Translates; the service decides."""

    def __init__(self, step_runs: StepRunService, explain: ExplainService) -> None:
        self._step_runs = step_runs
        self._explain = explain

    async def CreateStepRun(
        self, request: steprun_pb2.CreateStepRunRequest, context: Context
    ) -> steprun_pb2.CreateStepRunResponse:
        step_id = await self._step_runs.create(convert.added_step(request), caller().name)
        return steprun_pb2.CreateStepRunResponse(success=True, message="step run created", step_run_id=str(step_id))

    async def GetStepRun(
        self, request: steprun_pb2.GetStepRunRequest, context: Context
    ) -> steprun_pb2.GetStepRunResponse:
        row = await self._step_runs.get(required_id(request.step_run_id, "step_run_id", "step run"))
        return steprun_pb2.GetStepRunResponse(success=True, message="step run found", step_run=convert.step_run_to(row))

    async def ListStepRuns(
        self, request: steprun_pb2.ListStepRunsRequest, context: Context
    ) -> steprun_pb2.ListStepRunsResponse:
        page = convert.page_of(request)
        rows, total = await self._step_runs.list_page(convert.step_filter(request), page)
        return steprun_pb2.ListStepRunsResponse(
            success=True,
            message=f"step runs found: {total}",
            step_runs=[convert.step_run_to(row) for row in rows],
            total=total,
            page=page.number,
            page_size=page.size,
        )

    async def UpdateStepRun(
        self, request: steprun_pb2.UpdateStepRunRequest, context: Context
    ) -> steprun_pb2.UpdateStepRunResponse:
        step_id = required_id(request.step_run_id, "step_run_id", "step run")
        await self._step_runs.update(step_id, dict(request.env), convert.new_timeout(request))
        return steprun_pb2.UpdateStepRunResponse(success=True, message="step run updated")

    async def DeleteStepRun(
        self, request: steprun_pb2.DeleteStepRunRequest, context: Context
    ) -> steprun_pb2.DeleteStepRunResponse:
        await self._step_runs.delete(required_id(request.step_run_id, "step_run_id", "step run"))
        return steprun_pb2.DeleteStepRunResponse(success=True, message="step run deleted")

    async def CancelStepRun(
        self, request: steprun_pb2.CancelStepRunRequest, context: Context
    ) -> steprun_pb2.CancelStepRunResponse:
        step_id = required_id(request.step_run_id, "step_run_id", "step run")
        await self._step_runs.cancel(step_id, plain_text(request.reason, "reason"))
        return steprun_pb2.CancelStepRunResponse(success=True, message="step run cancelled, or asked to end")

    async def RetryStepRun(
        self, request: steprun_pb2.RetryStepRunRequest, context: Context
    ) -> steprun_pb2.RetryStepRunResponse:
        step_id = await self._step_runs.retry(
            required_id(request.step_run_id, "step_run_id", "step run"), caller().name
        )
        return steprun_pb2.RetryStepRunResponse(success=True, message="new attempt made", new_step_run_id=str(step_id))

    async def ExplainStepRun(
        self, request: steprun_pb2.ExplainStepRunRequest, context: Context
    ) -> steprun_pb2.ExplainStepRunResponse:
        step_id = required_id(request.step_run_id, "step_run_id", "step run")
        return explanation_to(await self._explain.explain(step_id))

    async def ListStepRunArtifacts(
        self, request: steprun_pb2.ListStepRunArtifactsRequest, context: Context
    ) -> steprun_pb2.ListStepRunArtifactsResponse:
        rows = await self._step_runs.artifacts(required_id(request.step_run_id, "step_run_id", "step run"))
        return steprun_pb2.ListStepRunArtifactsResponse(
            success=True, message=f"artifacts found: {len(rows)}", artifacts=[convert.artifact_to(row) for row in rows]
        )
