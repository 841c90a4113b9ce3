"""The pipeline service of the contract."""

from __future__ import annotations

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.domain.errors import ValidationError
from arcentra_server.rpc.context import Context, caller, existing_id
from arcentra_server.rpc.convert import pipeline as convert
from arcentra_server.rpc.convert import run as convert_run
from arcentra_server.rpc.convert.enums import RUN_STATUS
from arcentra_server.rpc.convert.fields import filter_id, plain_text, required_id
from arcentra_server.rpc.servicers.pipeline_documents import DocumentMethods
from arcentra_server.rpc.servicers.pipeline_notifications import NotificationMethods
from arcentra_server.rpc.servicers.pipeline_order import OrderMethods
from arcentra_server.rpc.servicers.pipeline_triggers import TriggerMethods
from arcentra_server.services.approvals import ApprovalService
from arcentra_server.services.concurrency import ConcurrencyService
from arcentra_server.services.notifier import Notifier
from arcentra_server.services.pipelines import PipelineService
from arcentra_server.services.runs import RunService
from arcentra_server.services.triggers import TriggerService


class PipelineServicer(DocumentMethods, OrderMethods, NotificationMethods, TriggerMethods):
    """Translates; the services decide."""

    def __init__(
        self,
        pipelines: PipelineService,
        runs: RunService,
        approvals: ApprovalService,
        concurrency: ConcurrencyService,
        notifier: Notifier,
        triggers: TriggerService,
    ) -> None:
        self._pipelines = pipelines
        self._runs = runs
        self._approvals = approvals
        self._concurrency = concurrency
        self._notifier = notifier
        self._triggers = triggers

    async def CreatePipeline(
        self, request: pipeline_pb2.CreatePipelineRequest, context: Context
    ) -> pipeline_pb2.CreatePipelineResponse:
        created_by = plain_text(request.created_by, "created_by") or caller().name
        with convert.contract_paths():
            pipeline_id = await self._pipelines.create(convert.new_pipeline(request), created_by)
        return pipeline_pb2.CreatePipelineResponse(
            success=True, message="pipeline created", pipeline_id=str(pipeline_id)
        )

    async def UpdatePipeline(
        self, request: pipeline_pb2.UpdatePipelineRequest, context: Context
    ) -> pipeline_pb2.UpdatePipelineResponse:
        pipeline_id = required_id(request.pipeline_id, "pipeline_id", "pipeline")
        with convert.contract_paths():
            await self._pipelines.update(pipeline_id, convert.pipeline_change(request), caller().name)
        return pipeline_pb2.UpdatePipelineResponse(success=True, message="pipeline updated")

    async def GetPipeline(
        self, request: pipeline_pb2.GetPipelineRequest, context: Context
    ) -> pipeline_pb2.GetPipelineResponse:
        if request.pipeline_id:
            row = await self._pipelines.get(existing_id(request.pipeline_id, "pipeline"), request.spec_version)
        elif request.name:
            namespace, name = plain_text(request.namespace, "namespace"), plain_text(request.name, "name")
            row = await self._pipelines.find(namespace, name, request.spec_version)
        else:
            raise ValidationError.at("pipeline_id", "is required, or a name")
        return pipeline_pb2.GetPipelineResponse(
            success=True, message="pipeline found", pipeline=convert.pipeline_to(row)
        )

    async def ListPipelines(
        self, request: pipeline_pb2.ListPipelinesRequest, context: Context
    ) -> pipeline_pb2.ListPipelinesResponse:
        page = convert.page_of(request)
        namespace = plain_text(request.namespace, "namespace")
        status = RUN_STATUS.filter_from_proto(request.status, "status")
        rows, total = await self._pipelines.list_page(namespace=namespace, status=status, page=page)
        return pipeline_pb2.ListPipelinesResponse(
            success=True,
            message=f"pipelines found: {total}",
            pipelines=[convert.pipeline_to(row) for row in rows],
            total=total,
            page=page.number,
            page_size=page.size,
        )

    async def DeletePipeline(
        self, request: pipeline_pb2.DeletePipelineRequest, context: Context
    ) -> pipeline_pb2.DeletePipelineResponse:
        await self._pipelines.delete(required_id(request.pipeline_id, "pipeline_id", "pipeline"))
        return pipeline_pb2.DeletePipelineResponse(success=True, message="pipeline deleted")

    async def TriggerPipeline(
        self, request: pipeline_pb2.TriggerPipelineRequest, context: Context
    ) -> pipeline_pb2.TriggerPipelineResponse:
        pipeline_id = required_id(request.pipeline_id, "pipeline_id", "pipeline")
        started = await self._runs.trigger(pipeline_id, convert_run.trigger_from(request, caller()))
        return pipeline_pb2.TriggerPipelineResponse(
            success=True,
            message="run started",
            run_id=str(started.run_id),
            job_run_ids=[str(job_id) for job_id in started.job_ids],
            warnings=[f"{fault.path}: {fault.message}" if fault.path else fault.message for fault in started.warnings],
        )

    async def StopPipeline(
        self, request: pipeline_pb2.StopPipelineRequest, context: Context
    ) -> pipeline_pb2.StopPipelineResponse:
        run_id = required_id(request.run_id, "run_id", "pipeline run")
        pipeline_id = existing_id(request.pipeline_id, "pipeline") if request.pipeline_id else None
        await self._runs.stop(run_id, pipeline_id, plain_text(request.reason, "reason"))
        return pipeline_pb2.StopPipelineResponse(success=True, message="run stopped")

    async def PausePipeline(
        self, request: pipeline_pb2.PausePipelineRequest, context: Context
    ) -> pipeline_pb2.PausePipelineResponse:
        run_id = required_id(request.run_id, "run_id", "pipeline run")
        pipeline_id = existing_id(request.pipeline_id, "pipeline") if request.pipeline_id else None
        actor = plain_text(request.operator, "operator") or caller().name
        await self._runs.pause(run_id, pipeline_id, plain_text(request.reason, "reason"), actor)
        return pipeline_pb2.PausePipelineResponse(success=True, message="run paused")

    async def ResumePipeline(
        self, request: pipeline_pb2.ResumePipelineRequest, context: Context
    ) -> pipeline_pb2.ResumePipelineResponse:
        run_id = required_id(request.run_id, "run_id", "pipeline run")
        pipeline_id = existing_id(request.pipeline_id, "pipeline") if request.pipeline_id else None
        actor = plain_text(request.operator, "operator") or caller().name
        await self._runs.resume(run_id, pipeline_id, plain_text(request.reason, "reason"), actor)
        return pipeline_pb2.ResumePipelineResponse(success=True, message="run resumed")

    async def GetPipelineRun(
        self, request: pipeline_pb2.GetPipelineRunRequest, context: Context
    ) -> pipeline_pb2.GetPipelineRunResponse:
        row = await self._runs.get(required_id(request.run_id, "run_id", "pipeline run"))
        return pipeline_pb2.GetPipelineRunResponse(success=True, message="run found", run=convert_run.run_to(row))

    async def ListPipelineRuns(
        self, request: pipeline_pb2.ListPipelineRunsRequest, context: Context
    ) -> pipeline_pb2.ListPipelineRunsResponse:
        page = convert.page_of(request)
        rows, total = await self._runs.list_page(
            pipeline_id=filter_id(request.pipeline_id, "pipeline_id"),
            namespace=plain_text(request.namespace, "namespace"),
            status=RUN_STATUS.filter_from_proto(request.status, "status"),
            page=page,
        )
        return pipeline_pb2.ListPipelineRunsResponse(
            success=True,
            message=f"runs found: {total}",
            runs=[convert_run.run_to(row) for row in rows],
            total=total,
            page=page.number,
            page_size=page.size,
        )
