"""What of the admin service concerns agents."""

from __future__ import annotations

from arcentra_api.admin.v1 import admin_pb2, admin_pb2_grpc
from arcentra_server.db.agents import AgentRow
from arcentra_server.domain.errors import ValidationError
from arcentra_server.rpc.channels import AgentChannels
from arcentra_server.rpc.context import Context, caller
from arcentra_server.rpc.convert.agent import agent_to, check_labels
from arcentra_server.rpc.convert.fields import plain_text, required_id
from arcentra_server.services.auth import AuthService
from arcentra_server.services.fleet import FleetService

LONGEST_REASON = 1_024  # characters


class AgentMethods(admin_pb2_grpc.AdminServiceServicer):
    """Translates; the service decides. What changed reaches an agent that is connected here before the call answers."""

    _fleet: FleetService
    _auth: AuthService
    _channels: AgentChannels

    async def ListAgents(self, request: admin_pb2.ListAgentsRequest, context: Context) -> admin_pb2.ListAgentsResponse:
        return admin_pb2.ListAgentsResponse(agents=[agent_to(row) for row in await self._fleet.list_all()])

    async def GetAgent(self, request: admin_pb2.GetAgentRequest, context: Context) -> admin_pb2.GetAgentResponse:
        agent_id = required_id(request.agent_id, "agent_id", "agent")
        return admin_pb2.GetAgentResponse(agent=agent_to(await self._fleet.get(agent_id)))

    async def ApproveAgent(
        self, request: admin_pb2.ApproveAgentRequest, context: Context
    ) -> admin_pb2.ApproveAgentResponse:
        agent_id = required_id(request.agent_id, "agent_id", "agent")
        row = await self._fleet.approve(agent_id, caller().name)
        return admin_pb2.ApproveAgentResponse(agent=self._told(row))

    async def DrainAgent(self, request: admin_pb2.DrainAgentRequest, context: Context) -> admin_pb2.DrainAgentResponse:
        agent_id = required_id(request.agent_id, "agent_id", "agent")
        reason = plain_text(request.reason, "reason", longest=LONGEST_REASON)
        row = await self._fleet.drain(agent_id, reason, caller().name)
        return admin_pb2.DrainAgentResponse(agent=self._told(row))

    async def ResumeAgent(
        self, request: admin_pb2.ResumeAgentRequest, context: Context
    ) -> admin_pb2.ResumeAgentResponse:
        agent_id = required_id(request.agent_id, "agent_id", "agent")
        row = await self._fleet.resume(agent_id, caller().name)
        return admin_pb2.ResumeAgentResponse(agent=self._told(row))

    async def DisableAgent(
        self, request: admin_pb2.DisableAgentRequest, context: Context
    ) -> admin_pb2.DisableAgentResponse:
        agent_id = required_id(request.agent_id, "agent_id", "agent")
        reason = plain_text(request.reason, "reason", longest=LONGEST_REASON)
        row = await self._fleet.disable(agent_id, reason, caller().name)
        return admin_pb2.DisableAgentResponse(agent=self._told(row))

    async def EnableAgent(
        self, request: admin_pb2.EnableAgentRequest, context: Context
    ) -> admin_pb2.EnableAgentResponse:
        agent_id = required_id(request.agent_id, "agent_id", "agent")
        row = await self._fleet.enable(agent_id, caller().name)
        return admin_pb2.EnableAgentResponse(agent=self._told(row))

    async def SetAgentLabels(
        self, request: admin_pb2.SetAgentLabelsRequest, context: Context
    ) -> admin_pb2.SetAgentLabelsResponse:
        agent_id = required_id(request.agent_id, "agent_id", "agent")
        if faults := check_labels(request.labels):
            raise ValidationError(faults)
        row = await self._fleet.set_labels(agent_id, dict(request.labels), caller().name, merge=request.merge)
        return admin_pb2.SetAgentLabelsResponse(agent=agent_to(row))

    def _told(self, row: AgentRow) -> admin_pb2.AgentDetail:
        """Let the agent know what is wanted of it now."""
        self._auth.forget_agent(row.id)
        self._channels.change(row.id, row.standing)
        return agent_to(row)
