"""`trigger ...`."""

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.actions.lookup import pipeline_id_of
from arcentra_cli.config import Settings
from arcentra_cli.output import emit
from arcentra_cli.render import triggers as render
from arcentra_cli.session import session


async def list_triggers(settings: Settings, pipeline: str | None) -> None:
    """Show the schedules and event triggers."""
    async with session(settings) as client:
        request = pipeline_pb2.ListTriggersRequest(
            pipeline_id=await pipeline_id_of(client, pipeline, settings.namespace), namespace=settings.namespace or ""
        )
        reply = await client.read(client.pipelines.ListTriggers, request)
    emit(settings.output, reply, lambda: render.triggers(reply))


async def list_events(
    settings: Settings, pipeline: str | None, outcome: str | None, hook_id: str, page: int, limit: int
) -> None:
    """Show a page of the ledger, newest first."""
    wanted = pipeline_pb2.TriggerOutcome.Value(f"TRIGGER_OUTCOME_{(outcome or 'unspecified').upper()}")
    async with session(settings) as client:
        request = pipeline_pb2.ListTriggerEventsRequest(
            pipeline_id=await pipeline_id_of(client, pipeline, settings.namespace),
            namespace=settings.namespace or "",
            hook_id=hook_id,
            outcome=wanted,
            page=page,
            page_size=limit,
        )
        reply = await client.read(client.pipelines.ListTriggerEvents, request)
    emit(settings.output, reply, lambda: render.events(reply))
