"""Agents: who they are, what they can do, and when they were last heard of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.domain.fleet import AgentLabels
from arcentra_server.domain.states import AgentStatus

_COLUMNS = """a.id, a.name, a.ip, a.os, a.arch, a.version, a.capacity, a.claimed_labels || a.server_labels AS labels,
    a.status, a.metrics, a.last_contact_at"""
_RUNNING = "(SELECT count(*) FROM leases l WHERE l.agent_id = a.id AND l.ended_at IS NULL)::int AS running"


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent. `labels` are those in force; `running` counts its leases."""

    id: UUID
    name: str
    ip: str
    os: str
    arch: str
    version: str
    capacity: int
    labels: Mapping[str, str]
    status: AgentStatus
    metrics: Mapping[str, str]
    last_contact_at: datetime | None
    running: int


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


async def labels_of_all(tx: Tx) -> list[AgentLabels]:
    """Return the labels of every agent that has not left."""
    rows = await tx.fetch(
        """SELECT name, claimed_labels || server_labels AS labels FROM agents WHERE deleted_at IS NULL
            ORDER BY name, id"""
    )
    return [AgentLabels(row["name"], row["labels"]) for row in rows]


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
) -> None:
    """Store a new agent."""
    await tx.execute(
        """INSERT INTO agents (id, name, ip, os, arch, version, capacity, claimed_labels, server_labels)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)""",
        agent_id,
        name,
        ip,
        os,
        arch,
        version,
        capacity,
        dict(claimed_labels),
        dict(server_labels),
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
    """Write what an agent says of itself when it registers again; False when there is no such agent."""
    done = await tx.execute(
        """UPDATE agents SET name = coalesce(nullif($2, ''), name), ip = $3, os = $4, arch = $5, version = $6, capacity = $7, claimed_labels = $8
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


async def set_metrics(tx: Tx, agent_id: UUID, metrics: Mapping[str, str]) -> None:
    """Keep the last metrics of an agent."""
    await tx.execute("UPDATE agents SET metrics = $2 WHERE id = $1", agent_id, dict(metrics))


async def delete(tx: Tx, agent_id: UUID) -> AgentStatus | None:
    """Mark an agent as gone for good; return what it was doing, None when there is no such agent."""
    before = await tx.fetchval(
        """WITH known AS (SELECT id, status FROM agents WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE)
           UPDATE agents a SET deleted_at = clock_timestamp(), status = 'OFFLINE', lease_until = NULL
             FROM known WHERE a.id = known.id RETURNING known.status""",
        agent_id,
    )
    return AgentStatus(before) if before else None


async def renew(tx: Tx, agent_ids: Sequence[UUID], capacities: Sequence[int | None], lease_seconds: float) -> list[Row]:
    """Renew the leases of agents that were heard of; return (id, previous status, capacity, running) of each.

    One statement for all of them, whatever their number. A capacity of None leaves the stored one.
    """
    return list(
        await tx.fetch(
            """WITH heard AS (
                   SELECT a.id, a.status FROM agents a WHERE a.id = ANY($1) AND a.deleted_at IS NULL
                    ORDER BY a.id FOR NO KEY UPDATE)
               UPDATE agents a
                  SET last_contact_at = clock_timestamp(), lease_until = clock_timestamp() + make_interval(secs => $3),
                      capacity = coalesce(c.capacity, a.capacity)
                 FROM heard JOIN unnest($1::uuid[], $2::int[]) AS c(id, capacity) USING (id)
                WHERE a.id = heard.id
               RETURNING a.id, heard.status, a.capacity,
                         (SELECT count(*) FROM leases l WHERE l.agent_id = a.id AND l.ended_at IS NULL)::int AS running""",
            list(agent_ids),
            list(capacities),
            lease_seconds,
        )
    )


async def set_status(tx: Tx, statuses: Mapping[UUID, AgentStatus]) -> None:
    """Write what agents are doing."""
    await tx.execute(
        "UPDATE agents a SET status = c.status FROM unnest($1::uuid[], $2::text[]) AS c(id, status) WHERE a.id = c.id",
        list(statuses),
        [status.value for status in statuses.values()],
    )


async def rearm(tx: Tx, lease_seconds: float) -> int:
    """Give every agent that holds a lease one full lease time from now: after a server start nobody is late yet."""
    done = await tx.execute(
        """UPDATE agents SET lease_until = clock_timestamp() + make_interval(secs => $1)
            WHERE lease_until IS NOT NULL AND deleted_at IS NULL""",
        lease_seconds,
    )
    return int(done.split()[-1])


async def lapsed(tx: Tx, agent_ids: Sequence[UUID]) -> list[UUID]:
    """Lock those of the agents whose lease time has passed, and return them."""
    rows = await tx.fetch(
        """SELECT id FROM agents WHERE id = ANY($1) AND lease_until < clock_timestamp() AND deleted_at IS NULL
            ORDER BY id FOR NO KEY UPDATE""",
        agent_ids,
    )
    return [row["id"] for row in rows]


async def mark_offline(tx: Tx, agent_ids: Sequence[UUID]) -> list[Row]:
    """Mark agents as away; return (id, previous status) of those that were not."""
    return list(
        await tx.fetch(
            """WITH seen AS (SELECT id, status FROM agents WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE)
               UPDATE agents a SET status = 'OFFLINE', lease_until = NULL FROM seen
                WHERE a.id = seen.id RETURNING a.id, seen.status""",
            list(agent_ids),
        )
    )


async def leased_steps(tx: Tx, agent_ids: Sequence[UUID]) -> list[UUID]:
    """Return the step runs that these agents hold."""
    rows = await tx.fetch(
        "SELECT step_run_id FROM leases WHERE agent_id = ANY($1) AND ended_at IS NULL", list(agent_ids)
    )
    return [row["step_run_id"] for row in rows]


def _agent(row: Row) -> AgentRow:
    return AgentRow(
        row["id"],
        row["name"],
        row["ip"],
        row["os"],
        row["arch"],
        row["version"],
        row["capacity"],
        row["labels"],
        AgentStatus(row["status"]),
        row["metrics"],
        row["last_contact_at"],
        row["running"],
    )
