"""Events of agents: stored once each, and for each agent how far its seq has come."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from arcentra_server.db.engine import Tx
from arcentra_server.domain.event_order import AgentEvent
from arcentra_server.domain.ids import parse_id

# An advisory lock rather than the agent's row: heartbeats write that, and must not wait for events.
_LOCK_SPACE = 0x4145_5645
_LOCK = "SELECT pg_advisory_xact_lock($1, key) FROM unnest($2::int[]) AS key"
_LAST = """
    SELECT c.agent_id, coalesce(e.seq, 0) AS seq
      FROM unnest($1::uuid[]) AS c(agent_id)
      LEFT JOIN LATERAL (SELECT seq FROM agent_events WHERE agent_id = c.agent_id ORDER BY seq DESC LIMIT 1) e ON true
"""
_KNOWN = """
    SELECT e.agent_id, e.event_id
      FROM unnest($1::uuid[], $2::text[]) AS c(agent_id, event_id)
      JOIN agent_events e ON e.agent_id = c.agent_id AND e.event_id = c.event_id
"""
_INSERT = """
    INSERT INTO agent_events (agent_id, seq, event_id, event_type, pipeline_id, step_run_id, payload, occurred_at)
    SELECT agent_id, seq, event_id, event_type, pipeline_id, step_run_id, payload::jsonb, occurred_at
      FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                  $8::timestamptz[])
           AS c(agent_id, seq, event_id, event_type, pipeline_id, step_run_id, payload, occurred_at)
"""
# A place that is passed holds no event: it has no type, and an id that no event can have.
_SKIP = """
    INSERT INTO agent_events (agent_id, seq, event_id, event_type)
    SELECT agent_id, seq, 'passed ' || seq, '' FROM unnest($1::uuid[], $2::bigint[]) AS c(agent_id, seq)
"""


async def lock(tx: Tx, agent_ids: Collection[UUID]) -> dict[UUID, int]:
    """Let nobody else store events of these agents in this transaction; return the last seq of each, 0 for none."""
    keys = sorted({(agent_id.int & 0xFFFF_FFFF) - 0x8000_0000 for agent_id in agent_ids})
    await tx.execute(_LOCK, _LOCK_SPACE, keys)
    return {row["agent_id"]: row["seq"] for row in await tx.fetch(_LAST, list(agent_ids))}


async def last_seq(tx: Tx, agent_id: UUID) -> int:
    """Return the last seq of an agent that is stored or passed, 0 for none."""
    return int(await tx.fetchval("SELECT max(seq) FROM agent_events WHERE agent_id = $1", agent_id) or 0)


async def known(tx: Tx, pairs: Sequence[tuple[UUID, str]]) -> set[tuple[UUID, str]]:
    """Return those pairs of an agent and an event id that are stored."""
    rows = await tx.fetch(_KNOWN, [agent_id for agent_id, _ in pairs], [event_id for _, event_id in pairs])
    return {(row["agent_id"], row["event_id"]) for row in rows}


async def store(tx: Tx, stored: Sequence[tuple[UUID, AgentEvent]], passed: Sequence[tuple[UUID, int]]) -> None:
    """Write events, and mark places of the seq at which there is none."""
    if stored:
        rows = [
            (
                agent_id,
                event.seq,
                event.event_id,
                event.event_type,
                _id_text(event.pipeline_id),
                _id_text(event.step_id),
                _json(event.payload),
                event.occurred_at,
            )
            for agent_id, event in stored
        ]
        await tx.execute(_INSERT, *(list(column) for column in zip(*rows, strict=True)))
    if passed:
        await tx.execute(_SKIP, [agent_id for agent_id, _ in passed], [seq for _, seq in passed])


def _id_text(text: str) -> str:
    identity = parse_id(text) if text else None
    return str(identity) if identity else ""


def _json(payload: Mapping[str, object]) -> str:
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
