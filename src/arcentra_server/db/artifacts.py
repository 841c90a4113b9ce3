"""Artifacts: what a job left behind, and where it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from arcentra_server.db.engine import Tx


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    """An artifact. `size` is in bytes, 0 when it is not known."""

    id: UUID
    name: str
    path: str
    uri: str
    size: int
    created_at: datetime
    expires_at: datetime | None


async def store(tx: Tx, job_id: UUID, uris: Mapping[str, str], make_id: Callable[[], UUID], *, in_force: bool) -> None:
    """Note where the artifacts of a job are.

    A name that is known gets the new address when they are of the attempt `in_force`; else it keeps the one it has.
    """
    if uris:
        await tx.execute(
            """INSERT INTO artifacts (job_run_id, id, name, uri)
               SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::text[])
               ON CONFLICT (job_run_id, name) DO """
            + ("UPDATE SET uri = excluded.uri" if in_force else "NOTHING"),
            job_id,
            [make_id() for _ in uris],
            list(uris),
            list(uris.values()),
        )


async def of_step(tx: Tx, step_id: UUID) -> list[ArtifactRow]:
    """Return the artifacts of a step run: its own, and those its job reported as a whole."""
    rows = await tx.fetch(
        """SELECT a.id, a.name, a.path, a.uri, a.size, a.created_at, a.expires_at
             FROM artifacts a JOIN step_runs s ON s.job_run_id = a.job_run_id
            WHERE s.id = $1 AND (a.step_run_id IS NULL OR a.step_run_id = s.id) ORDER BY a.name""",
        step_id,
    )
    return [ArtifactRow(*row) for row in rows]
