"""The agents of the fake pipeline server, and what operators do with them."""

from typing import Any

from grpc import StatusCode

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.agent.v1 import agent_pb2

NOON = 1_800_014_400


class FakeAgents:
    """Keeps agents by id; `served` are the methods."""

    def __init__(self) -> None:
        self.agents: dict[str, admin_pb2.AgentDetail] = {}
        self.removed: dict[str, str] = {}
        self.served: dict[str, Any] = {
            "ListAgents": self.list_agents,
            "GetAgent": self.get,
            "ApproveAgent": self.approve,
            "DrainAgent": self.drain,
            "ResumeAgent": self.resume,
            "DisableAgent": self.disable,
            "EnableAgent": self.enable,
            "SetAgentLabels": self.set_labels,
            "Unregister": self.unregister,
        }
        self.add("agent-1", "agent-1-id", labels={"os": "linux", "arch": "arm64"}, max_concurrent_step_runs=4)

    def add(self, name: str, agent_id: str = "", **fields: Any) -> admin_pb2.AgentDetail:
        agent_id = agent_id or f"0000000{len(self.agents)}-0000-7000-8000-00000000a6e7"
        fields.setdefault("status", agent_pb2.AGENT_STATUS_IDLE)
        agent = self.agents[agent_id] = admin_pb2.AgentDetail(agent_id=agent_id, name=name, **fields)
        return agent

    async def list_agents(self, _request: Any, _context: Any) -> admin_pb2.ListAgentsResponse:
        return admin_pb2.ListAgentsResponse(agents=list(self.agents.values()))

    async def get(self, request: admin_pb2.GetAgentRequest, context: Any) -> admin_pb2.GetAgentResponse:
        return admin_pb2.GetAgentResponse(agent=await self._agent(request, context))

    async def approve(self, request: admin_pb2.ApproveAgentRequest, context: Any) -> admin_pb2.ApproveAgentResponse:
        agent = await self._agent(request, context)
        agent.pending_approval, agent.status = False, agent_pb2.AGENT_STATUS_IDLE
        return admin_pb2.ApproveAgentResponse(agent=agent)

    async def drain(self, request: admin_pb2.DrainAgentRequest, context: Any) -> admin_pb2.DrainAgentResponse:
        agent = await self._agent(request, context)
        agent.draining, agent.note, agent.status = True, request.reason, agent_pb2.AGENT_STATUS_DRAINING
        return admin_pb2.DrainAgentResponse(agent=agent)

    async def resume(self, request: admin_pb2.ResumeAgentRequest, context: Any) -> admin_pb2.ResumeAgentResponse:
        agent = await self._agent(request, context)
        agent.draining, agent.note, agent.status = False, "", agent_pb2.AGENT_STATUS_IDLE
        return admin_pb2.ResumeAgentResponse(agent=agent)

    async def disable(self, request: admin_pb2.DisableAgentRequest, context: Any) -> admin_pb2.DisableAgentResponse:
        agent = await self._agent(request, context)
        agent.disabled, agent.note, agent.status = True, request.reason, agent_pb2.AGENT_STATUS_DISABLED
        return admin_pb2.DisableAgentResponse(agent=agent)

    async def enable(self, request: admin_pb2.EnableAgentRequest, context: Any) -> admin_pb2.EnableAgentResponse:
        agent = await self._agent(request, context)
        agent.disabled, agent.note, agent.status = False, "", agent_pb2.AGENT_STATUS_IDLE
        return admin_pb2.EnableAgentResponse(agent=agent)

    async def set_labels(
        self, request: admin_pb2.SetAgentLabelsRequest, context: Any
    ) -> admin_pb2.SetAgentLabelsResponse:
        agent = await self._agent(request, context)
        kept = dict(agent.server_labels) if request.merge else {}
        given = {name: value for name, value in {**kept, **request.labels}.items() if value}
        for labels, values in ((agent.server_labels, given), (agent.labels, {**agent.claimed_labels, **given})):
            labels.clear()
            labels.update(values)
        return admin_pb2.SetAgentLabelsResponse(agent=agent)

    async def unregister(self, request: agent_pb2.UnregisterRequest, context: Any) -> agent_pb2.UnregisterResponse:
        await self._agent(request, context)
        del self.agents[request.agent_id]
        self.removed[request.agent_id] = request.reason
        return agent_pb2.UnregisterResponse(success=True)

    async def _agent(self, request: Any, context: Any) -> admin_pb2.AgentDetail:
        agent = self.agents.get(request.agent_id)
        if agent is None:
            await context.abort(StatusCode.NOT_FOUND, f"agent {request.agent_id!r} not found")
            raise AssertionError
        return agent
