"""What of the pipeline service concerns notifications: what was sent, and how that went."""

from __future__ import annotations

from arcentra_api.pipeline.v1 import pipeline_pb2, pipeline_pb2_grpc
from arcentra_server.db.paging import Page
from arcentra_server.rpc.context import Context
from arcentra_server.rpc.convert.fields import filter_id
from arcentra_server.rpc.convert.notifications import notification_to
from arcentra_server.services.notifier import Notifier


class NotificationMethods(pipeline_pb2_grpc.PipelineServiceServicer):
    """Translates; the service decides."""

    _notifier: Notifier

    async def ListNotifications(
        self, request: pipeline_pb2.ListNotificationsRequest, context: Context
    ) -> pipeline_pb2.ListNotificationsResponse:
        rows, total = await self._notifier.list_page(
            pipeline_id=filter_id(request.pipeline_id, "pipeline_id"),
            run_id=filter_id(request.run_id, "run_id"),
            page=Page.of(request.page, request.page_size, "", descending=True),
        )
        return pipeline_pb2.ListNotificationsResponse(notifications=[notification_to(row) for row in rows], total=total)
