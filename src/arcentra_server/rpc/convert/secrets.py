"""Secrets between the wire and the domain. Values come in and never go out."""

from __future__ import annotations

from arcentra_api.admin.v1 import admin_pb2
from arcentra_server.db.secrets import SecretRow
from arcentra_server.domain.secret_names import SecretScope
from arcentra_server.rpc.context import existing_id
from arcentra_server.rpc.convert.fields import plain_text, unix_seconds


def scope_from(message: admin_pb2.SetSecretRequest | admin_pb2.DeleteSecretRequest) -> SecretScope:
    """Read where a secret holds.

    Raises:
        ValidationError: the namespace is not a text that is stored.
        NotFound: the pipeline's id is none.
    """
    pipeline_id = existing_id(message.pipeline_id, "pipeline") if message.pipeline_id else None
    return SecretScope(plain_text(message.namespace, "namespace"), pipeline_id)


def secret_to(row: SecretRow) -> admin_pb2.SecretDetail:
    """Return a secret as it is listed."""
    return admin_pb2.SecretDetail(
        namespace=row.scope.namespace,
        pipeline_id=str(row.scope.pipeline_id or ""),
        name=row.name,
        version=row.version,
        created_at=unix_seconds(row.created_at),
        updated_at=unix_seconds(row.updated_at),
        updated_by=row.updated_by,
    )
