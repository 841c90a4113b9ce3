"""Secrets as they are administered: named, sealed, replaced, removed. Values are opened by `db/vault.py` alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.db.engine import Tx
from arcentra_server.domain.secret_box import Sealed, WrappedKey
from arcentra_server.domain.secret_names import SecretScope

_OF_SCOPE = "namespace = $1 AND pipeline_id IS NOT DISTINCT FROM $2 AND name = $3"
_MARK = "secrets"  # its row among the keys of servers


@dataclass(frozen=True, slots=True)
class SecretRow:
    """A secret without its value."""

    scope: SecretScope
    name: str
    version: int
    created_at: datetime
    updated_at: datetime
    updated_by: str


async def lock_version(tx: Tx, scope: SecretScope, name: str) -> int | None:
    """Lock a secret and return its version, None when there is none."""
    version: int | None = await tx.fetchval(
        f"SELECT version FROM secrets WHERE {_OF_SCOPE} FOR NO KEY UPDATE", scope.namespace, scope.pipeline_id, name
    )
    return version


async def insert(tx: Tx, secret_id: UUID, scope: SecretScope, name: str, sealed: Sealed, updated_by: str) -> bool:
    """Store version 1 of a secret; False when there is one by now."""
    done = await tx.execute(
        """INSERT INTO secrets (id, namespace, pipeline_id, name, algorithm, key_id, wrapped_key, sealed, updated_by)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING""",
        secret_id,
        scope.namespace,
        scope.pipeline_id,
        name,
        sealed.algorithm,
        sealed.key.key_id,
        sealed.key.blob,
        sealed.blob,
        updated_by,
    )
    return bool(done == "INSERT 0 1")


async def replace(tx: Tx, scope: SecretScope, name: str, version: int, sealed: Sealed, updated_by: str) -> None:
    """Write a new version over the one before, which is gone with that."""
    await tx.execute(
        f"""UPDATE secrets SET version = $4, algorithm = $5, key_id = $6, wrapped_key = $7, sealed = $8,
                  updated_by = $9, updated_at = clock_timestamp() WHERE {_OF_SCOPE}""",
        scope.namespace,
        scope.pipeline_id,
        name,
        version,
        sealed.algorithm,
        sealed.key.key_id,
        sealed.key.blob,
        sealed.blob,
        updated_by,
    )


async def delete(tx: Tx, scope: SecretScope, name: str) -> bool:
    """Remove a secret; False when there is none."""
    done = await tx.execute(f"DELETE FROM secrets WHERE {_OF_SCOPE}", scope.namespace, scope.pipeline_id, name)
    return bool(done == "DELETE 1")


async def list_all(tx: Tx, namespace: str, pipeline_id: UUID | None) -> list[SecretRow]:
    """Return the secrets of a namespace with its pipelines, or of a pipeline, or all: the global ones first."""
    rows = await tx.fetch(
        """SELECT namespace, pipeline_id, name, version, created_at, updated_at, updated_by FROM secrets
            WHERE ($1 = '' OR namespace = $1) AND ($2::uuid IS NULL OR pipeline_id = $2)
            ORDER BY namespace, pipeline_id NULLS FIRST, name""",
        namespace,
        pipeline_id,
    )
    return [SecretRow(SecretScope(row[0], row[1]), *row[2:]) for row in rows]


async def foreign_keys(tx: Tx, known: Sequence[str]) -> dict[str, int]:
    """Return the ids of keys that secrets are sealed with and are not among these, with the number of the secrets."""
    rows = await tx.fetch(
        "SELECT key_id, count(*) FROM secrets WHERE NOT key_id = ANY($1) GROUP BY key_id ORDER BY key_id", known
    )
    return {row[0]: row[1] for row in rows}


async def key_mark(tx: Tx, candidate: WrappedKey) -> WrappedKey:
    """Return the mark by which servers know that they have the same key; the candidate becomes it when there is none."""
    await tx.execute(
        f"INSERT INTO server_keys (name, secret) VALUES ('{_MARK}', $1) ON CONFLICT DO NOTHING", _text(candidate)
    )
    stored = bytes(await tx.fetchval(f"SELECT secret FROM server_keys WHERE name = '{_MARK}'"))
    key_id, _, blob = stored.partition(b" ")
    return WrappedKey(key_id.decode(), blob)


async def replace_key_mark(tx: Tx, mark: WrappedKey) -> None:
    """Write another mark over the one before."""
    await tx.execute(f"UPDATE server_keys SET secret = $1 WHERE name = '{_MARK}'", _text(mark))


def _text(mark: WrappedKey) -> bytes:
    return mark.key_id.encode() + b" " + mark.blob


async def namespace_of_pipeline(tx: Tx, pipeline_id: UUID, *, deleted: bool = False) -> str | None:
    """Return the namespace of a pipeline, None when there is no such pipeline; `deleted`: one that is deleted counts."""
    namespace: str | None = await tx.fetchval(
        "SELECT namespace FROM pipelines WHERE id = $1 AND ($2 OR deleted_at IS NULL)", pipeline_id, deleted
    )
    return namespace
