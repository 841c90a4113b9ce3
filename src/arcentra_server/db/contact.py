"""Contact with agents: when each was heard of, how long its leases hold, and what it is doing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.domain.lapse_brake import Holder
from arcentra_server.domain.standing import Standing
from arcentra_server.domain.states import AgentStatus, agent_status

_RUNNING = "(SELECT count(*) FROM leases l WHERE l.agent_id = a.id AND l.ended_at IS NULL)::int AS running"
_HEARD = f"a.capacity, a.approved, a.disabled, a.drained, a.draining, a.note, {_RUNNING}"
_KNOWN = """WITH known AS (SELECT id, status, (approved, disabled, drained, note) AS standing
                             FROM agents WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE)"""


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life of an agent; what is None leaves the stored value. `draining`: it takes nothing new by itself."""

    agent_id: UUID
    capacity: int | None = None
    metrics: Mapping[str, str] | None = None
    draining: bool | None = None

    def then(self, later: Beat) -> Beat:
        """Return both as one: the later one wins."""
        return Beat(
            self.agent_id,
            self.capacity if later.capacity is None else later.capacity,
            self.metrics if later.metrics is None else later.metrics,
            self.draining if later.draining is None else later.draining,
        )


async def renew(tx: Tx, beats: Sequence[Beat], lease_seconds: float) -> list[Row]:
    """Renew the leases of agents that were heard of, one beat each; return (id, previous status, what status is of).

    One statement for all of them, whatever their number.
    """
    return list(
        await tx.fetch(
            f"""WITH heard AS (
                   SELECT a.id, a.status FROM agents a WHERE a.id = ANY($1) AND a.deleted_at IS NULL
                    ORDER BY a.id FOR NO KEY UPDATE)
               UPDATE agents a
                  SET last_contact_at = clock_timestamp(), lease_until = clock_timestamp() + make_interval(secs => $5),
                      capacity = coalesce(c.capacity, a.capacity), metrics = coalesce(c.metrics::jsonb, a.metrics),
                      draining = coalesce(c.draining, a.draining)
                 FROM heard
                 JOIN unnest($1::uuid[], $2::int[], $3::text[], $4::bool[]) AS c(id, capacity, metrics, draining)
                USING (id)
                WHERE a.id = heard.id
               RETURNING a.id, heard.status, {_HEARD}""",
            [beat.agent_id for beat in beats],
            [beat.capacity for beat in beats],
            [None if beat.metrics is None else json.dumps(dict(beat.metrics)) for beat in beats],
            [beat.draining for beat in beats],
            lease_seconds,
        )
    )


async def want(
    tx: Tx,
    agent_id: UUID,
    *,
    approved: bool | None = None,
    disabled: bool | None = None,
    drained: bool | None = None,
    note: str = "",
) -> Row | None:
    """Write what an operator wants of an agent; what is None stays. Return as `renew`, None when there is none.

    `changed`: whether that was new. The note stays until another one comes, or neither of what it explains holds any more.
    """
    return await tx.fetchrow(
        f"""{_KNOWN}
            UPDATE agents a
               SET approved = coalesce($2, a.approved), disabled = coalesce($3, a.disabled),
                   drained = coalesce($4, a.drained),
                   note = CASE WHEN coalesce($3, a.disabled) OR coalesce($4, a.drained)
                               THEN coalesce(nullif($5, ''), a.note) ELSE '' END
              FROM known WHERE a.id = known.id
            RETURNING a.id, known.status, {_HEARD},
                      known.standing IS DISTINCT FROM (a.approved, a.disabled, a.drained, a.note) AS changed""",
        agent_id,
        approved,
        disabled,
        drained,
        note,
    )


def standing_of(row: Row) -> Standing:
    """Read what operators want of an agent."""
    return Standing(row["approved"], row["disabled"], row["drained"], row["note"])


def status_of(row: Row, *, away: bool = False) -> AgentStatus:
    """Read what an agent is doing."""
    return agent_status(
        row["capacity"],
        row["running"],
        away=away,
        approved=row["approved"],
        disabled=row["disabled"],
        draining=row["drained"] or row["draining"],
    )


async def set_status(tx: Tx, statuses: Mapping[UUID, AgentStatus]) -> None:
    """Write what agents are doing."""
    await tx.execute(
        "UPDATE agents a SET status = c.status FROM unnest($1::uuid[], $2::text[]) AS c(id, status) WHERE a.id = c.id",
        list(statuses),
        [status.value for status in statuses.values()],
    )


async def rearm(tx: Tx, lease_seconds: float) -> int:
    """Give every agent one full lease time from now: nobody could be heard of. Return how many got it.

    Each time: what `spare` gives once a silence is not used up by it, nor does it say that an agent could be heard of.
    """
    done = await tx.execute(
        """WITH known AS (
               SELECT id FROM agents WHERE lease_until IS NOT NULL AND deleted_at IS NULL
                ORDER BY id FOR NO KEY UPDATE)
           UPDATE agents a SET lease_until = clock_timestamp() + make_interval(secs => $1)
             FROM known WHERE a.id = known.id""",
        lease_seconds,
    )
    return int(done.split()[-1])


async def holders(tx: Tx, soon_seconds: float) -> list[Holder]:
    """Return the agents that hold leases. `soon_seconds`: how long before its end a lease time lapses."""
    rows = await tx.fetch(
        """SELECT a.id, a.lease_until < clock_timestamp() AS lapsed,
                  a.lease_until < clock_timestamp() + make_interval(secs => $1) AS lapsing,
                  coalesce(a.spared_at > a.last_contact_at, false) AS spared
             FROM agents a
            WHERE a.lease_until IS NOT NULL AND a.deleted_at IS NULL
              AND EXISTS (SELECT 1 FROM leases l WHERE l.agent_id = a.id AND l.ended_at IS NULL)
            ORDER BY a.id""",
        soon_seconds,
    )
    return [Holder(row["id"], row["lapsed"], row["lapsing"], row["spared"]) for row in rows]


async def spare(tx: Tx, agent_ids: Sequence[UUID], lease_seconds: float) -> list[UUID]:
    """Give lapsed agents one more lease time; return those that got it: others were heard of, or spared, meanwhile."""
    rows = await tx.fetch(
        """WITH silent AS (
               SELECT id FROM agents WHERE id = ANY($1) AND lease_until < clock_timestamp() AND deleted_at IS NULL
                  AND (spared_at IS NULL OR last_contact_at > spared_at) ORDER BY id FOR NO KEY UPDATE)
           UPDATE agents a SET lease_until = clock_timestamp() + make_interval(secs => $2), spared_at = clock_timestamp()
             FROM silent WHERE a.id = silent.id RETURNING a.id""",
        list(agent_ids),
        lease_seconds,
    )
    return [row["id"] for row in rows]


async def lapsed(tx: Tx, agent_ids: Sequence[UUID]) -> list[UUID]:
    """Lock those of the agents that are away or have left, or whose lease time has passed, and return them."""
    rows = await tx.fetch(
        """SELECT id FROM agents
            WHERE id = ANY($1) AND (lease_until IS NULL OR lease_until < clock_timestamp())
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
