"""`agent list`."""

import time

from arcentra_api.admin.v1 import admin_pb2
from arcentra_cli.config import Settings
from arcentra_cli.output import emit
from arcentra_cli.render import tables
from arcentra_cli.session import session


async def list_agents(settings: Settings) -> None:
    """Show every registered agent."""
    async with session(settings) as client:
        reply = await client.read(client.admin.ListAgents, admin_pb2.ListAgentsRequest())
    emit(settings.output, reply, lambda: tables.agents(reply, time.time()))
