"""The secrets of the small control plane of `fake_pipeline_server.py`."""

from typing import Any

from grpc import StatusCode

from arcentra_api.admin.v1 import admin_pb2

Key = tuple[str, str, str]


class FakeSecrets:
    """Values by namespace, pipeline and name, and the calls that change them. A value of one letter has a warning."""

    def __init__(self) -> None:
        self.values: dict[Key, str] = {}
        self.served: dict[str, Any] = {
            "SetSecret": self.set_secret,
            "ListSecrets": self.list_secrets,
            "DeleteSecret": self.delete_secret,
        }

    async def set_secret(self, request: admin_pb2.SetSecretRequest, _context: Any) -> admin_pb2.SetSecretResponse:
        self.values[request.namespace, request.pipeline_id, request.name] = request.value
        warnings = ["the value is short"] if len(request.value) == 1 else []
        return admin_pb2.SetSecretResponse(version=3, warnings=warnings)

    async def list_secrets(self, request: admin_pb2.ListSecretsRequest, _context: Any) -> admin_pb2.ListSecretsResponse:
        return admin_pb2.ListSecretsResponse(
            secrets=[
                admin_pb2.SecretDetail(
                    namespace=namespace, pipeline_id=pipeline_id, name=name, version=3, updated_by="ada"
                )
                for namespace, pipeline_id, name in sorted(self.values)
                if request.namespace in {"", namespace} and request.pipeline_id in {"", pipeline_id}
            ]
        )

    async def delete_secret(self, request: admin_pb2.DeleteSecretRequest, context: Any) -> Any:
        if self.values.pop((request.namespace, request.pipeline_id, request.name), None) is None:
            await context.abort(StatusCode.NOT_FOUND, f"secret {request.name!r} not found in this scope")
        return admin_pb2.DeleteSecretResponse()
