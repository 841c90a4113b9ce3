"""Tables and statements of the lifecycle limit: what any server that keeps this promise has to write."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]


class Status(IntEnum):
    """Status of a step run, in an order that only ever grows: a late report never wins over a newer one."""

    WAITING = 0
    READY = 1
    CLAIMED = 2
    RUNNING = 3
    SUCCESS = 4


SCHEMA = """
CREATE TABLE step_runs (
    id text PRIMARY KEY,
    position bigint GENERATED ALWAYS AS IDENTITY,
    job_id text NOT NULL,
    step_index smallint NOT NULL,
    status smallint NOT NULL,
    agent_id text,
    command_id text,
    lease_token text,
    claimed_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    last_of_job boolean NOT NULL,
    spec bytea NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX step_runs_job ON step_runs (job_id, step_index);
CREATE INDEX step_runs_ready ON step_runs (position) WHERE status = 1;
CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    step_run_id text NOT NULL,
    status smallint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
"""

# The planner has no statistics for arrays and would now and then read the whole table for a batch of ten.
SESSION = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off"}

# One statement, so one round trip and one commit, for everything a batch holds: the reports (only the newest of each
# step run reaches its row, but every one gets its event), the next step of each job that went on, and as many first
# steps as slots are free. $1 ids, $2 statuses, $3 "is the newest of its step run", $4 one agent id a free slot.
APPLY = """
WITH report AS (
    SELECT * FROM unnest($1::text[], $2::smallint[], $3::boolean[]) WITH ORDINALITY AS r (id, status, newest, n)
), applied AS (
    UPDATE step_runs s
    SET status = r.status,
        started_at = coalesce(s.started_at, now()),
        finished_at = CASE WHEN r.status = 4 THEN now() END
    FROM report r
    WHERE r.newest AND s.id = r.id AND s.status < r.status
    RETURNING s.id, s.job_id, s.step_index, s.status, s.agent_id
), next_of_job AS (
    UPDATE step_runs s
    SET status = 2, agent_id = a.agent_id, claimed_at = now(), command_id = gen_random_uuid(), lease_token = gen_random_uuid()
    FROM applied a
    WHERE a.status = 4 AND s.job_id = a.job_id AND s.step_index = a.step_index + 1 AND s.status = 0
    RETURNING s.id, s.agent_id, s.command_id, s.lease_token, s.last_of_job, s.spec
), slot AS (
    SELECT * FROM unnest($4::text[]) WITH ORDINALITY AS f (agent_id, n)
), picked AS (
    SELECT id, row_number() OVER () AS n
    FROM (
        SELECT id FROM step_runs WHERE status = 1 ORDER BY position LIMIT cardinality($4::text[]) FOR UPDATE SKIP LOCKED
    ) head
), claimed AS (
    UPDATE step_runs s
    SET status = 2, agent_id = f.agent_id, claimed_at = now(), command_id = gen_random_uuid(), lease_token = gen_random_uuid()
    FROM picked p JOIN slot f USING (n)
    WHERE s.id = p.id
    RETURNING s.id, s.agent_id, s.command_id, s.lease_token, s.last_of_job, s.spec
), logged AS (
    INSERT INTO events (step_run_id, status)
    SELECT id, status FROM (
        SELECT r.id, r.status, r.n FROM report r JOIN applied a ON a.id = r.id
        UNION ALL SELECT id, 2, 0 FROM next_of_job
        UNION ALL SELECT id, 2, 0 FROM claimed
    ) happened
    ORDER BY n
)
SELECT * FROM next_of_job UNION ALL SELECT * FROM claimed
"""

ADD = """
INSERT INTO step_runs (id, job_id, step_index, status, last_of_job, spec)
SELECT * FROM unnest($1::text[], $2::text[], $3::smallint[], $4::smallint[], $5::boolean[], $6::bytea[])
"""


@dataclass(frozen=True, slots=True)
class NewStep:
    """A step run to add: the first of its job is ready, the others wait for the one before."""

    id: str
    job_id: str
    step_index: int
    last_of_job: bool
    spec: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """A status an agent reported."""

    step_run_id: str
    status: Status


async def add(connection: "Connection", steps: Sequence[NewStep]) -> None:
    """Insert new step runs."""
    await connection.execute(
        ADD,
        [step.id for step in steps],
        [step.job_id for step in steps],
        [step.step_index for step in steps],
        [Status.READY if step.step_index == 0 else Status.WAITING for step in steps],
        [step.last_of_job for step in steps],
        [step.spec for step in steps],
    )


async def apply(connection: "Connection", reports: Sequence[Report], free_slots: Sequence[str]) -> list[asyncpg.Record]:
    """Write a batch and claim work for `free_slots` (one agent id a slot); answers the claimed rows."""
    newest = {report.step_run_id: n for n, report in enumerate(reports)}
    return await connection.fetch(
        APPLY,
        [report.step_run_id for report in reports],
        [report.status for report in reports],
        [newest[report.step_run_id] == n for n, report in enumerate(reports)],
        list(free_slots),
    )
