"""AdminService: what operators and the command line ask of the server itself."""

from __future__ import annotations

from importlib.metadata import version

from arcentra_api.admin.v1 import admin_pb2, admin_pb2_grpc
from arcentra_server.rpc.context import Context, caller
from arcentra_server.rpc.convert.agent import agent_to
from arcentra_server.services.agents import AgentService


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """See the module."""

    def __init__(self, agents: AgentService) -> None:
        self._agents = agents

    async def WhoAmI(self, request: admin_pb2.WhoAmIRequest, context: Context) -> admin_pb2.WhoAmIResponse:
        who = caller()
        return admin_pb2.WhoAmIResponse(name=who.name, role=who.role.value, server_version=version("arcentra-server"))

    async def ListAgents(self, request: admin_pb2.ListAgentsRequest, context: Context) -> admin_pb2.ListAgentsResponse:
        return admin_pb2.ListAgentsResponse(agents=[agent_to(row) for row in await self._agents.list_all()])
