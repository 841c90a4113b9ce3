"""Hooks, and their secrets as they are sealed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from arcentra_server.db.engine import Row, Tx
from arcentra_server.domain.errors import AlreadyExists
from arcentra_server.domain.forge import Forge
from arcentra_server.domain.secret_box import Sealed, WrappedKey

_COLUMNS = "id, namespace, pipeline_id, name, forge, secret_version, created_at, created_by, last_delivery_at"


@dataclass(frozen=True, slots=True)
class HookRow:
    """A hook. `pipeline_id` None: it can start every pipeline of the namespace."""

    id: UUID
    namespace: str
    pipeline_id: UUID | None
    name: str
    forge: Forge
    secret_version: int
    created_at: datetime
    created_by: str
    last_delivery_at: datetime | None


@dataclass(frozen=True, slots=True)
class HookSecret:
    """One version of a secret, sealed."""

    version: int
    sealed: Sealed


async def insert(
    tx: Tx, hook_id: UUID, *, namespace: str, pipeline_id: UUID | None, name: str, forge: Forge, created_by: str
) -> HookRow:
    """Store a new hook; its secret is version 1.

    Raises:
        AlreadyExists: the name is taken in the namespace.
    """
    try:
        row = await tx.fetchrow(
            f"""INSERT INTO hooks (id, namespace, pipeline_id, name, forge, created_by)
                VALUES ($1, $2, $3, $4, $5, $6) RETURNING {_COLUMNS}""",
            hook_id,
            namespace,
            pipeline_id,
            name,
            forge.value,
            created_by,
        )
    except asyncpg.UniqueViolationError as error:
        raise AlreadyExists(f"hook {name!r} already exists in namespace {namespace!r}") from error
    if row is None:
        raise LookupError("an inserted row was not returned")
    return _hook(row)


async def get(tx: Tx, hook_id: UUID, *, lock: bool = False) -> HookRow | None:
    """Return a hook."""
    suffix = " FOR NO KEY UPDATE" if lock else ""
    row = await tx.fetchrow(f"SELECT {_COLUMNS} FROM hooks WHERE id = $1{suffix}", hook_id)
    return _hook(row) if row else None


async def list_all(tx: Tx, namespace: str) -> list[HookRow]:
    """Return the hooks of a namespace, or all, by namespace and name."""
    rows = await tx.fetch(
        f"SELECT {_COLUMNS} FROM hooks WHERE $1 = '' OR namespace = $1 ORDER BY namespace, name", namespace
    )
    return [_hook(row) for row in rows]


async def delete(tx: Tx, hook_id: UUID) -> bool:
    """Delete a hook with its secrets and deliveries; answer whether there was one."""
    return bool(await tx.execute("DELETE FROM hooks WHERE id = $1", hook_id) == "DELETE 1")


async def note_delivery(tx: Tx, hook_id: UUID, now: datetime) -> None:
    """Note that a delivery with a good signature came."""
    await tx.execute("UPDATE hooks SET last_delivery_at = $2 WHERE id = $1", hook_id, now)


async def add_secret(tx: Tx, hook_id: UUID, version: int, sealed: Sealed) -> None:
    """Store a version of a secret, and make it the one in force."""
    await tx.execute(
        """INSERT INTO hook_secrets (hook_id, version, algorithm, key_id, wrapped_key, sealed)
           VALUES ($1, $2, $3, $4, $5, $6)""",
        hook_id,
        version,
        sealed.algorithm,
        sealed.key.key_id,
        sealed.key.blob,
        sealed.blob,
    )
    await tx.execute("UPDATE hooks SET secret_version = $2 WHERE id = $1", hook_id, version)


async def expire_secrets(tx: Tx, hook_id: UUID, version: int, at: datetime) -> None:
    """Let a version be good until a time; older ones are good no longer."""
    await tx.execute("DELETE FROM hook_secrets WHERE hook_id = $1 AND version < $2", hook_id, version)
    await tx.execute(
        "UPDATE hook_secrets SET expires_at = $3 WHERE hook_id = $1 AND version = $2", hook_id, version, at
    )


async def good_secrets(tx: Tx, hook_id: UUID, now: datetime) -> list[HookSecret]:
    """Return the versions that are good, the newest first."""
    rows = await tx.fetch(
        """SELECT version, algorithm, key_id, wrapped_key, sealed FROM hook_secrets
            WHERE hook_id = $1 AND (expires_at IS NULL OR expires_at > $2) ORDER BY version DESC""",
        hook_id,
        now,
    )
    return [
        HookSecret(
            row["version"], Sealed(row["algorithm"], WrappedKey(row["key_id"], row["wrapped_key"]), row["sealed"])
        )
        for row in rows
    ]


def _hook(row: Row) -> HookRow:
    return HookRow(**{**row, "forge": Forge(row["forge"])})
