"""AdminService: what operators and the command line ask of the server itself."""

from __future__ import annotations

from importlib.metadata import version

from arcentra_api.admin.v1 import admin_pb2
from arcentra_server.rpc.context import Context, caller
from arcentra_server.rpc.convert.agent import agent_to
from arcentra_server.rpc.convert.fields import filter_id, plain_text
from arcentra_server.rpc.convert.secrets import scope_from, secret_to
from arcentra_server.rpc.servicers.admin_hooks import HookMethods
from arcentra_server.services.agents import AgentService
from arcentra_server.services.hooks import HookService
from arcentra_server.services.secrets import SecretService


class AdminServicer(HookMethods):
    """See the module."""

    def __init__(self, agents: AgentService, secrets: SecretService, hooks: HookService) -> None:
        self._agents = agents
        self._secrets = secrets
        self._hooks = hooks

    async def WhoAmI(self, request: admin_pb2.WhoAmIRequest, context: Context) -> admin_pb2.WhoAmIResponse:
        who = caller()
        return admin_pb2.WhoAmIResponse(name=who.name, role=who.role.value, server_version=version("arcentra-server"))

    async def ListAgents(self, request: admin_pb2.ListAgentsRequest, context: Context) -> admin_pb2.ListAgentsResponse:
        return admin_pb2.ListAgentsResponse(agents=[agent_to(row) for row in await self._agents.list_all()])

    async def SetSecret(self, request: admin_pb2.SetSecretRequest, context: Context) -> admin_pb2.SetSecretResponse:
        stored = await self._secrets.set(scope_from(request), request.name, request.value, caller().name)
        return admin_pb2.SetSecretResponse(version=stored.version, warnings=stored.warnings)

    async def ListSecrets(
        self, request: admin_pb2.ListSecretsRequest, context: Context
    ) -> admin_pb2.ListSecretsResponse:
        namespace = plain_text(request.namespace, "namespace")
        rows = await self._secrets.list_all(namespace, filter_id(request.pipeline_id, "pipeline_id"))
        return admin_pb2.ListSecretsResponse(secrets=[secret_to(row) for row in rows])

    async def DeleteSecret(
        self, request: admin_pb2.DeleteSecretRequest, context: Context
    ) -> admin_pb2.DeleteSecretResponse:
        await self._secrets.delete(scope_from(request), request.name)
        return admin_pb2.DeleteSecretResponse()
