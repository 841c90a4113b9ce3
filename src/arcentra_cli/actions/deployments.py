"""`deployment ...`."""

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.actions.lookup import pipeline_id_of
from arcentra_cli.config import Settings
from arcentra_cli.output import emit
from arcentra_cli.render import order as render
from arcentra_cli.session import session


async def list_deployments(
    settings: Settings, pipeline: str | None, target: str, run_id: str, page: int, limit: int
) -> None:
    """Show a page of deployments, newest first."""
    async with session(settings) as client:
        request = pipeline_pb2.ListDeploymentsRequest(
            pipeline_id=await pipeline_id_of(client, pipeline, settings.namespace),
            namespace=settings.namespace or "",
            run_id=run_id,
            target=target,
            page=page,
            page_size=limit,
        )
        reply = await client.read(client.pipelines.ListDeployments, request)
    emit(settings.output, reply, lambda: render.deployments(reply))
