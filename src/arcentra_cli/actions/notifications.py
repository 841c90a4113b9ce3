"""`notification ...`."""

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.actions.lookup import pipeline_id_of
from arcentra_cli.config import Settings
from arcentra_cli.output import emit
from arcentra_cli.render import notifications as render
from arcentra_cli.session import session


async def list_notifications(settings: Settings, run_id: str, pipeline: str | None, page: int, limit: int) -> None:
    """Show a page of notifications, newest first."""
    async with session(settings) as client:
        pipeline_id = await pipeline_id_of(client, pipeline, settings.namespace)
        request = pipeline_pb2.ListNotificationsRequest(
            run_id=run_id, pipeline_id=pipeline_id, page=page, page_size=limit
        )
        reply = await client.read(client.pipelines.ListNotifications, request)
    emit(settings.output, reply, lambda: render.notifications(reply))
