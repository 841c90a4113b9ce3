"""AdminService: what operators and the command line ask of the server itself."""

from __future__ import annotations

from importlib.metadata import version

from arcentra_api.admin.v1 import admin_pb2
from arcentra_server.rpc.channels import AgentChannels
from arcentra_server.rpc.context import Context, caller
from arcentra_server.rpc.convert.fields import filter_id, plain_text
from arcentra_server.rpc.convert.secrets import scope_from, secret_to
from arcentra_server.rpc.servicers.admin_agents import AgentMethods
from arcentra_server.rpc.servicers.admin_hooks import HookMethods
from arcentra_server.services.auth import AuthService
from arcentra_server.services.fleet import FleetService
from arcentra_server.services.hooks import HookService
from arcentra_server.services.secrets import SecretService


class AdminServicer(AgentMethods, HookMethods):
    """See the module."""

    def __init__(
        self,
        fleet: FleetService,
        secrets: SecretService,
        hooks: HookService,
        *,
        auth: AuthService,
        channels: AgentChannels,
    ) -> None:
        self._fleet = fleet
        self._auth = auth
        self._channels = channels
        self._secrets = secrets
        self._hooks = hooks

    async def WhoAmI(self, request: admin_pb2.WhoAmIRequest, context: Context) -> admin_pb2.WhoAmIResponse:
        who = caller()
        return admin_pb2.WhoAmIResponse(name=who.name, role=who.role.value, server_version=version("arcentra-server"))

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
