"""Agents: who they are, what they can do, and what operators want of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.db.contact import standing_of
from arcentra_server.db.engine import Row, Tx
from arcentra_server.domain.fleet import AgentLabels
from arcentra_server.domain.labels import in_force
from arcentra_server.domain.standing import Briefing, Standing
from arcentra_server.domain.states import AgentStatus

MANY_AGENTS = 200  # whose labels take about a millisecond to read
_COLUMNS = """a.id, a.name, a.ip, a.os, a.arch, a.version, a.capacity, a.claimed_labels, a.server_labels,
    a.claimed_labels || a.server_labels AS labels, a.status, a.metrics, a.last_contact_at, a.approved, a.disabled,
    a.drained, a.draining, a.note"""
_RUNNING = "(SELECT count(*) FROM leases l WHERE l.agent_id = a.id AND l.ended_at IS NULL)::int AS running"


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent. `labels` are those in force; `running` counts its leases; `draining`: as the agent itself says."""

    id: UUID
    name: str
    ip: str
    os: str
    arch: str
    version: str
    capacity: int
    claimed_labels: Mapping[str, str]
    server_labels: Mapping[str, str]
    labels: Mapping[str, str]
    status: AgentStatus
    metrics: Mapping[str, str]
    last_contact_at: datetime | None
    running: int
    draining: bool
    standing: Standing


async def get(tx: Tx, agent_id: UUID) -> AgentRow | None:
    """Return an agent that has not left."""
    row = await tx.fetchrow(
        f"SELECT {_COLUMNS}, {_RUNNING} FROM agents a WHERE id = $1 AND deleted_at IS NULL", agent_id
    )
    return _agent(row) if row else None


async def list_all(tx: Tx) -> list[AgentRow]:
    """Return every agent that has not left, by name."""
    rows = await tx.fetch(f"SELECT {_COLUMNS}, {_RUNNING} FROM agents a WHERE deleted_at IS NULL ORDER BY name, id")
    return [_agent(row) for row in rows]


async def labels_of_all(tx: Tx, most: int | None = None) -> list[AgentLabels]:
    """Return the labels of every agent that has not left and is not disabled, or of the first `most` of them."""
    # As text: what thousands of agents have takes longer to read than the loop may stand still.
    rows = await tx.fetch(
        """SELECT name, claimed_labels::text AS claimed, server_labels::text AS given FROM agents
            WHERE deleted_at IS NULL AND NOT disabled ORDER BY name, id LIMIT $1""",
        most,
    )
    return await asyncio.to_thread(_labels, rows) if len(rows) > MANY_AGENTS else _labels(rows)


async def briefings(
    tx: Tx, arrivals: Iterable[tuple[UUID, str]], *, endless_tokens: bool
) -> dict[tuple[UUID, str], Briefing]:
    """Return what agents are told that come, each with a token; those that are no more, or not with that one, are left out.

    `endless_tokens`: one that has no end need not be rotated.
    """
    wanted = list(dict.fromkeys(arrivals))
    rows = await tx.fetch(
        """SELECT a.id, t.id AS token_id, a.approved, a.disabled, a.drained, a.note,
                  CASE WHEN t.expires_at IS NOT NULL
                       THEN extract(epoch FROM t.created_at + (t.expires_at - t.created_at) / 2 - clock_timestamp())
                       WHEN NOT $3 THEN 0 END::float8 AS rotate_in,
                  EXISTS (SELECT 1 FROM leases l WHERE l.agent_id = a.id AND l.ended_at IS NULL) AS busy,
                  ARRAY(SELECT l.id FROM leases l JOIN step_runs s ON s.id = l.step_run_id
                         WHERE l.agent_id = a.id AND l.ended_at IS NULL AND s.status = 'RUNNING') AS started
             FROM unnest($1::uuid[], $2::text[]) AS c(agent_id, token_id)
             JOIN agents a ON a.id = c.agent_id JOIN tokens t ON t.id = c.token_id AND t.agent_id = a.id
            WHERE a.deleted_at IS NULL AND t.revoked_at IS NULL""",
        [agent_id for agent_id, _ in wanted],
        [token_id for _, token_id in wanted],
        endless_tokens,
    )
    return {
        (row["id"], row["token_id"]): Briefing(
            standing_of(row), row["rotate_in"], row["busy"], frozenset(row["started"])
        )
        for row in rows
    }


async def insert(
    tx: Tx,
    agent_id: UUID,
    *,
    name: str,
    ip: str,
    os: str,
    arch: str,
    version: str,
    capacity: int,
    claimed_labels: Mapping[str, str],
    server_labels: Mapping[str, str],
    approved: bool,
) -> None:
    """Store a new agent."""
    await tx.execute(
        """INSERT INTO agents (id, name, ip, os, arch, version, capacity, claimed_labels, server_labels, approved)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)""",
        agent_id,
        name,
        ip,
        os,
        arch,
        version,
        capacity,
        dict(claimed_labels),
        dict(server_labels),
        approved,
    )


async def update_facts(
    tx: Tx,
    agent_id: UUID,
    *,
    name: str,
    ip: str,
    os: str,
    arch: str,
    version: str,
    capacity: int,
    claimed_labels: Mapping[str, str],
) -> bool:
    """Write what an agent says of itself when it registers again; False when there is no such agent.

    It begins anew: that it drained before holds no more. An empty name leaves the stored one.
    """
    done = await tx.execute(
        """UPDATE agents SET name = coalesce(nullif($2, ''), name), ip = $3, os = $4, arch = $5, version = $6,
                  capacity = $7, claimed_labels = $8, draining = false
            WHERE id = $1 AND deleted_at IS NULL""",
        agent_id,
        name,
        ip,
        os,
        arch,
        version,
        capacity,
        dict(claimed_labels),
    )
    return bool(done == "UPDATE 1")


async def set_claimed_labels(
    tx: Tx, agent_id: UUID, labels: Mapping[str, str], *, merge: bool
) -> Mapping[str, str] | None:
    """Replace or merge the labels an agent claims; return those now in force, in which the server's win.

    None: no such agent.
    """
    row: Mapping[str, str] | None = await tx.fetchval(
        """UPDATE agents SET claimed_labels = CASE WHEN $3 THEN claimed_labels || $2 ELSE $2 END
            WHERE id = $1 AND deleted_at IS NULL RETURNING claimed_labels || server_labels""",
        agent_id,
        dict(labels),
        merge,
    )
    return row


async def set_server_labels(
    tx: Tx, agent_id: UUID, labels: Mapping[str, str], *, merge: bool
) -> tuple[Mapping[str, str], Mapping[str, str]] | None:
    """Replace or merge the labels the server gives an agent; return those before and after, None for no such agent.

    With `merge` an empty value removes a label.
    """
    removed = [name for name, value in labels.items() if merge and not value]
    row = await tx.fetchrow(
        """WITH known AS (
               SELECT id, server_labels FROM agents WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE)
           UPDATE agents a SET server_labels = (CASE WHEN $3 THEN a.server_labels || $2 ELSE $2 END) - $4::text[]
             FROM known WHERE a.id = known.id RETURNING known.server_labels AS before, a.server_labels AS after""",
        agent_id,
        dict(labels),
        merge,
        removed,
    )
    return (row["before"], row["after"]) if row else None


async def delete(tx: Tx, agent_id: UUID) -> AgentStatus | None:
    """Mark an agent as gone for good; return what it was doing, None when there is no such agent."""
    before = await tx.fetchval(
        """WITH known AS (SELECT id, status FROM agents WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE)
           UPDATE agents a SET deleted_at = clock_timestamp(), status = 'OFFLINE', lease_until = NULL
             FROM known WHERE a.id = known.id RETURNING known.status""",
        agent_id,
    )
    return AgentStatus(before) if before else None


def _labels(rows: Iterable[Row]) -> list[AgentLabels]:
    return [AgentLabels(row["name"], in_force(json.loads(row["claimed"]), json.loads(row["given"]))) for row in rows]


def _agent(row: Row) -> AgentRow:
    return AgentRow(
        row["id"],
        row["name"],
        row["ip"],
        row["os"],
        row["arch"],
        row["version"],
        row["capacity"],
        row["claimed_labels"],
        row["server_labels"],
        row["labels"],
        AgentStatus(row["status"]),
        row["metrics"],
        row["last_contact_at"],
        row["running"],
        row["draining"],
        standing_of(row),
    )
