"""Gates that were reached, and the votes at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.db.engine import Row, Tx
from arcentra_server.db.paging import Page
from arcentra_server.domain.states import ApprovalState

_SELECT = """
    SELECT a.id, a.run_id, a.pipeline_id, p.name AS pipeline_name, r.namespace, a.stage_index, t.name AS stage,
           a.job_run_id AS job_id, j.name AS job_name, a.state, a.needed, a.approvers, a.separation, a.spec_digest,
           a.commit_sha, a.created_at, a.expires_at, a.decided_at, r.triggered_by, r.trigger_actor
      FROM approvals a
      JOIN pipeline_runs r ON r.id = a.run_id
      JOIN pipelines p ON p.id = a.pipeline_id
      LEFT JOIN run_stages t ON t.run_id = a.run_id AND t.stage_index = a.stage_index
      LEFT JOIN job_runs j ON j.id = a.job_run_id
"""
_SORT = {"created_at": "a.created_at"}


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote. `voter`: the name of the credential."""

    voter: str
    approved: bool
    comment: str
    voted_at: datetime


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """A gate of a run: before the stage `stage`, or after the job `job_name`."""

    id: UUID
    run_id: UUID
    pipeline_id: UUID
    pipeline_name: str
    namespace: str
    stage_index: int | None
    stage: str | None
    job_id: UUID | None
    job_name: str | None
    state: ApprovalState
    needed: int
    approvers: Sequence[str]
    separation: bool
    spec_digest: bytes
    commit_sha: str
    created_at: datetime
    expires_at: datetime | None
    decided_at: datetime | None
    triggered_by: str
    trigger_actor: str
    votes: tuple[Vote, ...] = ()


@dataclass(frozen=True, slots=True)
class ApprovalFilter:
    """Which gates a list is of; what is None or empty does not matter."""

    pipeline_id: UUID | None = None
    run_id: UUID | None = None
    namespace: str = ""
    state: ApprovalState | None = None


async def run_of(tx: Tx, approval_id: UUID) -> UUID | None:
    """Return the run of a gate."""
    found: UUID | None = await tx.fetchval("SELECT run_id FROM approvals WHERE id = $1", approval_id)
    return found


async def get(tx: Tx, approval_id: UUID) -> ApprovalRow | None:
    """Return a gate with its votes. Whoever changes it holds the lock of its run."""
    rows = await _with_votes(tx, await tx.fetch(_SELECT + "WHERE a.id = $1", approval_id))
    return rows[0] if rows else None


async def pending_of_run(tx: Tx, run_id: UUID) -> list[ApprovalRow]:
    """Return the gates of a run that are not decided."""
    query = _SELECT + "WHERE a.run_id = $1 AND a.state = 'PENDING' ORDER BY a.created_at, a.id"
    return await _with_votes(tx, await tx.fetch(query, run_id))


async def list_page(tx: Tx, wanted: ApprovalFilter, page: Page) -> tuple[list[ApprovalRow], int]:
    """Return one page of gates, the newest first, and how many there are in all."""
    where = """WHERE ($1::uuid IS NULL OR a.pipeline_id = $1) AND ($2::uuid IS NULL OR a.run_id = $2)
                 AND ($3 = '' OR r.namespace = $3) AND ($4::text IS NULL OR a.state = $4) """
    state = wanted.state.value if wanted.state else None
    values = (wanted.pipeline_id, wanted.run_id, wanted.namespace, state)
    clause = page.clause(_SORT).replace(", id ", ", a.id ")
    rows = await _with_votes(tx, await tx.fetch(_SELECT + where + clause, *values))
    count = f"SELECT count(*) FROM approvals a JOIN pipeline_runs r ON r.id = a.run_id {where}"
    return rows, await tx.fetchval(count, *values)


async def add_vote(tx: Tx, approval_id: UUID, voter: str, comment: str, *, approved: bool) -> None:
    """Store the vote of somebody who has not voted."""
    await tx.execute(
        "INSERT INTO approval_votes (approval_id, voter, comment, approved) VALUES ($1, $2, $3, $4)",
        approval_id,
        voter,
        comment,
        approved,
    )


async def decide(tx: Tx, approval_id: UUID, state: ApprovalState) -> None:
    """Decide a gate that waits; its run is locked."""
    await tx.execute(
        "UPDATE approvals SET state = $2, decided_at = clock_timestamp() WHERE id = $1 AND state = 'PENDING'",
        approval_id,
        state.value,
    )


async def _with_votes(tx: Tx, rows: Sequence[Row]) -> list[ApprovalRow]:
    votes: dict[UUID, list[Vote]] = {}
    if rows:
        for row in await tx.fetch(
            """SELECT approval_id, voter, approved, comment, voted_at FROM approval_votes
                WHERE approval_id = ANY($1) ORDER BY voted_at, voter""",
            [row["id"] for row in rows],
        ):
            identity, *vote = row
            votes.setdefault(identity, []).append(Vote(*vote))
    found = []
    for row in rows:
        values = dict(row)
        values["state"] = ApprovalState(values["state"])
        found.append(ApprovalRow(**values, votes=tuple(votes.get(row["id"], ()))))
    return found
