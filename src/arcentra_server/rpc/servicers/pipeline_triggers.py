"""What of the pipeline service concerns triggers: the schedules and rules, and what came of them."""

from __future__ import annotations

from arcentra_api.pipeline.v1 import pipeline_pb2, pipeline_pb2_grpc
from arcentra_server.db.paging import Page
from arcentra_server.rpc.context import Context
from arcentra_server.rpc.convert import triggers as convert
from arcentra_server.rpc.convert.fields import filter_id, plain_text
from arcentra_server.services.triggers import TriggerService


class TriggerMethods(pipeline_pb2_grpc.PipelineServiceServicer):
    """Translates; the service decides."""

    _triggers: TriggerService

    async def ListTriggers(
        self, request: pipeline_pb2.ListTriggersRequest, context: Context
    ) -> pipeline_pb2.ListTriggersResponse:
        rows = await self._triggers.list_triggers(
            pipeline_id=filter_id(request.pipeline_id, "pipeline_id"),
            namespace=plain_text(request.namespace, "namespace"),
        )
        return pipeline_pb2.ListTriggersResponse(triggers=[convert.trigger_to(row) for row in rows])

    async def ListTriggerEvents(
        self, request: pipeline_pb2.ListTriggerEventsRequest, context: Context
    ) -> pipeline_pb2.ListTriggerEventsResponse:
        rows, total = await self._triggers.list_events(
            pipeline_id=filter_id(request.pipeline_id, "pipeline_id"),
            namespace=plain_text(request.namespace, "namespace"),
            hook_id=filter_id(request.hook_id, "hook_id"),
            outcome=convert.TRIGGER_OUTCOME.filter_from_proto(request.outcome, "outcome"),
            page=Page.of(request.page, request.page_size, "", descending=True),
        )
        return pipeline_pb2.ListTriggerEventsResponse(
            events=[convert.trigger_event_to(row) for row in rows], total=total
        )
