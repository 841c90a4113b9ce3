"""What of the admin service concerns hooks."""

from __future__ import annotations

from arcentra_api.admin.v1 import admin_pb2, admin_pb2_grpc
from arcentra_server.rpc.context import Context, caller
from arcentra_server.rpc.convert import triggers as convert
from arcentra_server.rpc.convert.fields import plain_text, required_id
from arcentra_server.services.hooks import HookService


class HookMethods(admin_pb2_grpc.AdminServiceServicer):
    """Translates; the service decides."""

    _hooks: HookService

    async def CreateHook(self, request: admin_pb2.CreateHookRequest, context: Context) -> admin_pb2.CreateHookResponse:
        row, secret = await self._hooks.create(convert.new_hook(request), caller().name)
        return admin_pb2.CreateHookResponse(hook=convert.hook_to(row), secret=secret)

    async def ListHooks(self, request: admin_pb2.ListHooksRequest, context: Context) -> admin_pb2.ListHooksResponse:
        rows = await self._hooks.list_all(plain_text(request.namespace, "namespace"))
        return admin_pb2.ListHooksResponse(hooks=[convert.hook_to(row) for row in rows])

    async def RotateHookSecret(
        self, request: admin_pb2.RotateHookSecretRequest, context: Context
    ) -> admin_pb2.RotateHookSecretResponse:
        hook_id = required_id(request.hook_id, "hook_id", "hook")
        secret = await self._hooks.rotate(hook_id, plain_text(request.secret, "secret"))
        return admin_pb2.RotateHookSecretResponse(secret=secret)

    async def DeleteHook(self, request: admin_pb2.DeleteHookRequest, context: Context) -> admin_pb2.DeleteHookResponse:
        await self._hooks.delete(required_id(request.hook_id, "hook_id", "hook"))
        return admin_pb2.DeleteHookResponse()
