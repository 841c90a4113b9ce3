"""The hooks and triggers of the small control plane of `fake_pipeline_server.py`."""

from typing import Any

from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2

NOON = 1_800_014_400


class FakeHooks:
    """Hooks by id, each with its secret; two triggers, and a ledger of whatever the test puts into it."""

    def __init__(self) -> None:
        self.hooks: dict[str, admin_pb2.HookDetail] = {}
        self.secrets: dict[str, str] = {}
        self.events: list[pipeline_pb2.TriggerEvent] = []
        self.served: dict[str, Any] = {
            "CreateHook": self.create_hook,
            "ListHooks": self.list_hooks,
            "RotateHookSecret": self.rotate_hook_secret,
            "DeleteHook": self.delete_hook,
            "ListTriggers": self.list_triggers,
            "ListTriggerEvents": self.list_trigger_events,
        }

    async def create_hook(self, request: admin_pb2.CreateHookRequest, _context: Any) -> admin_pb2.CreateHookResponse:
        hook_id = f"018f0000-0000-7000-8000-{len(self.hooks):012}"
        hook = admin_pb2.HookDetail(
            hook_id=hook_id,
            namespace=request.namespace or "default",
            pipeline_id=request.pipeline_id,
            name=request.name,
            forge=request.forge,
            path=f"/webhooks/{hook_id}",
            created_by="ada",
        )
        self.hooks[hook_id] = hook
        self.secrets[hook_id] = request.secret or "made by the server"
        return admin_pb2.CreateHookResponse(hook=hook, secret=self.secrets[hook_id])

    async def list_hooks(self, request: admin_pb2.ListHooksRequest, _context: Any) -> admin_pb2.ListHooksResponse:
        found = [hook for hook in self.hooks.values() if request.namespace in {"", hook.namespace}]
        return admin_pb2.ListHooksResponse(hooks=found)

    async def rotate_hook_secret(self, request: admin_pb2.RotateHookSecretRequest, context: Any) -> Any:
        await self._existing(request.hook_id, context)
        self.secrets[request.hook_id] = request.secret or "made anew"
        return admin_pb2.RotateHookSecretResponse(secret=self.secrets[request.hook_id])

    async def delete_hook(self, request: admin_pb2.DeleteHookRequest, context: Any) -> admin_pb2.DeleteHookResponse:
        await self._existing(request.hook_id, context)
        del self.hooks[request.hook_id]
        return admin_pb2.DeleteHookResponse()

    async def _existing(self, hook_id: str, context: Any) -> None:
        if hook_id not in self.hooks:
            await context.abort(StatusCode.NOT_FOUND, f"hook {hook_id!r} not found")

    async def list_triggers(
        self, _request: pipeline_pb2.ListTriggersRequest, _context: Any
    ) -> pipeline_pb2.ListTriggersResponse:
        rules = Struct()
        rules.update({"events": ["push", "tag"], "branches": ["main", "rel/**"], "paths": ["src/**"]})
        common: dict[str, Any] = {"pipeline_name": "demo", "namespace": "team"}
        return pipeline_pb2.ListTriggersResponse(
            triggers=[
                pipeline_pb2.TriggerDetail(
                    **common,
                    type=pipeline_pb2.TRIGGER_TYPE_CRON,
                    explanation="At 02:30 (UTC)",
                    next_at=NOON,
                    last_fired_at=NOON,
                    last_run_id="run-1",
                ),
                pipeline_pb2.TriggerDetail(
                    **common, trigger_index=1, type=pipeline_pb2.TRIGGER_TYPE_CRON, explanation="Every hour (UTC)"
                ),
                pipeline_pb2.TriggerDetail(
                    **common, trigger_index=2, type=pipeline_pb2.TRIGGER_TYPE_EVENT, options=rules
                ),
            ]
        )

    async def list_trigger_events(
        self, request: pipeline_pb2.ListTriggerEventsRequest, _context: Any
    ) -> pipeline_pb2.ListTriggerEventsResponse:
        size = request.page_size
        found = [event for event in self.events if request.outcome in {0, event.outcome}]
        first = (request.page - 1) * size
        return pipeline_pb2.ListTriggerEventsResponse(events=found[first : first + size], total=len(found))
