"""`concurrency ...`."""

import time

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.config import Settings
from arcentra_cli.output import emit
from arcentra_cli.render import order as render
from arcentra_cli.session import session


async def list_keys(settings: Settings, key: str) -> None:
    """Show the concurrency keys that are held or waited for."""
    request = pipeline_pb2.ListConcurrencyRequest(namespace=settings.namespace or "", key=key)
    async with session(settings) as client:
        reply = await client.read(client.pipelines.ListConcurrency, request)
    emit(settings.output, reply, lambda: render.concurrency(reply, time.time()))
