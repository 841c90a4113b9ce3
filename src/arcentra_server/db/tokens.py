"""Tokens, by hash only, and the keys of the installation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from arcentra_server.db.engine import Tx
from arcentra_server.domain.identity import Role, TokenKind


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A stored token."""

    id: str
    kind: TokenKind
    name: str
    role: Role
    secret_hash: bytes
    agent_id: UUID | None
    labels: Mapping[str, str]
    expired: bool


async def get(tx: Tx, token_id: str) -> TokenRow | None:
    """Return a token that is not revoked; `expired` by the clock of the database, or because its agent is gone."""
    row = await tx.fetchrow(
        """SELECT t.id, t.kind, t.name, t.role, t.secret_hash, t.agent_id, t.labels,
                  coalesce(t.expires_at < clock_timestamp(), false) OR a.deleted_at IS NOT NULL AS expired
             FROM tokens t LEFT JOIN agents a ON a.id = t.agent_id WHERE t.id = $1 AND t.revoked_at IS NULL""",
        token_id,
    )
    if row is None:
        return None
    return TokenRow(
        row["id"],
        TokenKind(row["kind"]),
        row["name"],
        Role(row["role"]),
        row["secret_hash"],
        row["agent_id"],
        row["labels"],
        row["expired"],
    )


async def insert(
    tx: Tx,
    *,
    token_id: str,
    kind: TokenKind,
    name: str,
    role: Role,
    secret_hash: bytes,
    agent_id: UUID | None = None,
    labels: Mapping[str, str] | None = None,
    max_uses: int | None = None,
    ttl: timedelta | None = None,
) -> datetime | None:
    """Store a token; return when it ends, None for never."""
    expires: datetime | None = await tx.fetchval(
        """INSERT INTO tokens (id, kind, name, role, secret_hash, agent_id, labels, max_uses, expires_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp() + $9::interval) RETURNING expires_at""",
        token_id,
        kind.value,
        name,
        role.value,
        secret_hash,
        agent_id,
        dict(labels or {}),
        max_uses,
        ttl,
    )
    return expires


async def use_registration(tx: Tx, token_id: str) -> bool:
    """Take one use of a registration token; False when none is left or it has expired. One atomic statement."""
    used = await tx.execute(
        """UPDATE tokens SET uses = uses + 1, last_used_at = clock_timestamp()
            WHERE id = $1 AND kind = 'registration' AND revoked_at IS NULL
              AND (max_uses IS NULL OR uses < max_uses) AND (expires_at IS NULL OR expires_at > clock_timestamp())""",
        token_id,
    )
    return bool(used == "UPDATE 1")


async def revoke_of_agent(tx: Tx, agent_id: UUID) -> None:
    """Revoke every token of an agent."""
    await tx.execute(
        "UPDATE tokens SET revoked_at = clock_timestamp() WHERE agent_id = $1 AND revoked_at IS NULL", agent_id
    )


async def admin_token_exists(tx: Tx) -> bool:
    """Answer whether anybody can administer yet; others who ask wait for the end of this transaction."""
    await tx.execute("LOCK TABLE tokens IN SHARE ROW EXCLUSIVE MODE")
    query = "SELECT EXISTS (SELECT 1 FROM tokens WHERE kind = 'user' AND role = 'admin' AND revoked_at IS NULL)"
    return bool(await tx.fetchval(query))


async def server_key(tx: Tx, name: str, candidate: bytes) -> bytes:
    """Return a secret key of the installation; the candidate becomes it when there is none yet."""
    await tx.execute("INSERT INTO server_keys (name, secret) VALUES ($1, $2) ON CONFLICT DO NOTHING", name, candidate)
    return bytes(await tx.fetchval("SELECT secret FROM server_keys WHERE name = $1", name))
