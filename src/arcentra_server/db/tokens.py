"""Tokens, by hash only, and the keys of the installation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.domain.identity import Role, TokenKind


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A stored token. `pending`: it is of an agent that waits for approval; `needs_approval`: who joins with it will."""

    id: str
    kind: TokenKind
    name: str
    role: Role
    secret_hash: bytes
    agent_id: UUID | None
    labels: Mapping[str, str]
    expires_at: datetime | None
    expired: bool
    pending: bool
    needs_approval: bool


async def get(tx: Tx, token_id: str) -> TokenRow | None:
    """Return a token as `find` does."""
    return (await find(tx, [token_id])).get(token_id)


async def find(tx: Tx, token_ids: Sequence[str]) -> dict[str, TokenRow]:
    """Return the tokens that are not revoked; `expired` by the clock of the database, or because its agent is gone."""
    rows = await tx.fetch(
        """SELECT t.id, t.kind, t.name, t.role, t.secret_hash, t.agent_id, t.labels,
                  t.expires_at, t.needs_approval, coalesce(NOT a.approved, false) AS pending,
                  coalesce(t.expires_at < clock_timestamp(), false) OR a.deleted_at IS NOT NULL AS expired
             FROM tokens t LEFT JOIN agents a ON a.id = t.agent_id WHERE t.id = ANY($1) AND t.revoked_at IS NULL""",
        token_ids,
    )
    return {row["id"]: _token(row) for row in rows}


def _token(row: Row) -> TokenRow:
    return TokenRow(
        row["id"],
        TokenKind(row["kind"]),
        row["name"],
        Role(row["role"]),
        row["secret_hash"],
        row["agent_id"],
        row["labels"],
        row["expires_at"],
        row["expired"],
        row["pending"],
        row["needs_approval"],
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
    needs_approval: bool = False,
) -> datetime | None:
    """Store a token; return when it ends, None for never."""
    expires: datetime | None = await tx.fetchval(
        """INSERT INTO tokens (id, kind, name, role, secret_hash, agent_id, labels, max_uses, expires_at, needs_approval)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp() + $9::interval, $10) RETURNING expires_at""",
        token_id,
        kind.value,
        name,
        role.value,
        secret_hash,
        agent_id,
        dict(labels or {}),
        max_uses,
        ttl,
        needs_approval,
    )
    return expires


async def retire(tx: Tx, token_id: str, agent_id: UUID, left: timedelta) -> tuple[str, datetime] | None:
    """Let a token of an agent end soon, not later than it would; return its name and its end, None when it is no good.

    What ended long ago is forgotten: an agent that rotates its credential leaves no trail.
    """
    await tx.execute(
        "DELETE FROM tokens WHERE agent_id = $1 AND expires_at < clock_timestamp() - interval '1 day'", agent_id
    )
    row = await tx.fetchrow(
        """UPDATE tokens SET expires_at = least(expires_at, clock_timestamp() + $3)
            WHERE id = $1 AND agent_id = $2 AND revoked_at IS NULL RETURNING name, expires_at""",
        token_id,
        agent_id,
        left,
    )
    return (row["name"], row["expires_at"]) if row else None


async def ended(tx: Tx, token_ids: Sequence[str]) -> dict[str, str]:
    """Return those of the tokens that are no longer good, with why: `expired` or `revoked`."""
    rows = await tx.fetch(
        """SELECT c.id, CASE WHEN t.revoked_at IS NULL AND a.deleted_at IS NULL THEN 'expired' ELSE 'revoked' END AS why
             FROM unnest($1::text[]) AS c(id) LEFT JOIN tokens t ON t.id = c.id LEFT JOIN agents a ON a.id = t.agent_id
            WHERE t.id IS NULL OR t.revoked_at IS NOT NULL OR t.expires_at < clock_timestamp()
               OR a.deleted_at IS NOT NULL""",
        list(token_ids),
    )
    return {row["id"]: row["why"] for row in rows}


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
