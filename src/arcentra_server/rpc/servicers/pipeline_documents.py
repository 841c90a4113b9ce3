"""What of the pipeline service concerns documents: apply, validate, the schema."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from arcentra_api.pipeline.v1 import pipeline_pb2, pipeline_pb2_grpc
from arcentra_server.domain.definition import DEFAULT_NAMESPACE
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.field_checks import check_name
from arcentra_server.rpc.context import Context, caller
from arcentra_server.rpc.convert.document import Document, examine, read_pipeline
from arcentra_server.rpc.convert.problems import problems_to
from arcentra_server.rpc.convert.schema import schema_text
from arcentra_server.services.pipelines import PipelineService


class DocumentMethods(pipeline_pb2_grpc.PipelineServiceServicer):
    """Translates; the services decide. Documents are read in a thread: large ones take longer than the loop may stand."""

    _pipelines: PipelineService

    async def ApplyPipeline(
        self, request: pipeline_pb2.ApplyPipelineRequest, context: Context
    ) -> pipeline_pb2.ApplyPipelineResponse:
        new = await asyncio.to_thread(read_pipeline, request.document)
        applied = await self._pipelines.apply(replace(new, namespace=new.namespace or request.namespace), caller().name)
        return pipeline_pb2.ApplyPipelineResponse(
            pipeline_id=str(applied.pipeline.id),
            created=applied.created,
            changed=applied.changed,
            spec_version=applied.pipeline.spec_version,
            namespace=applied.pipeline.namespace,
            name=applied.pipeline.name,
        )

    async def ValidatePipeline(
        self, request: pipeline_pb2.ValidatePipelineRequest, context: Context
    ) -> pipeline_pb2.ValidatePipelineResponse:
        try:
            document = await asyncio.to_thread(examine, request.document)
        except ValidationError as error:
            return pipeline_pb2.ValidatePipelineResponse(faults=problems_to(error.faults))
        return await self._validated(document, request.namespace)

    async def GetPipelineSchema(
        self, request: pipeline_pb2.GetPipelineSchemaRequest, context: Context
    ) -> pipeline_pb2.GetPipelineSchemaResponse:
        return pipeline_pb2.GetPipelineSchemaResponse(json_schema=schema_text())

    async def _validated(self, document: Document, namespace: str) -> pipeline_pb2.ValidatePipelineResponse:
        new = document.new
        faults = [*document.faults]
        if namespace and not new.namespace:
            faults += map(document.placed, check_name(namespace, "namespace"))
        answer = pipeline_pb2.ValidatePipelineResponse(
            valid=not faults,
            faults=problems_to(faults),
            name=new.name,
            namespace=new.namespace or namespace or DEFAULT_NAMESPACE,
        )
        if answer.valid:
            examined = await self._pipelines.examine(new.spec)
            answer.warnings.extend(problems_to([document.placed(warning) for warning in examined.warnings]))
            answer.total_jobs, answer.total_steps = examined.total_jobs, examined.total_steps
        return answer
