"""What runs leave behind: events, logs, what agents say, artifacts."""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Identity,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    UniqueConstraint,
    event,
    text,
)

from arcentra_server.db.tables.columns import document, flag, identity, metadata, moment, one_of, whole, words

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    # The transaction that wrote the event: a reader with a snapshot knows by it which events the snapshot holds.
    Column("xid", BigInteger, nullable=False, server_default=text("((pg_current_xact_id())::text)::bigint")),
    moment("at", null=False, now=True),
    words("resource", default=None),
    identity("pipeline_id", null=True),
    identity("run_id", null=True),
    identity("job_run_id", null=True),
    identity("step_run_id", null=True),
    identity("agent_id", null=True),
    words("status", default=None),
    words("previous_status", null=True),
    whole("total"),
    whole("completed"),
    whole("failed"),
    whole("running"),
    whole("current"),
    words("message"),
    words("actor"),
    # Why it waits, as a typed reason; empty when it does not.
    words("waiting"),
    one_of("resource", ("step", "job", "run", "agent"), "resource"),
    Index("ix_events_run", "run_id", "id"),
)

step_logs = Table(
    "step_logs",
    metadata,
    identity("step_run_id", key=True, to="step_runs.id"),
    whole("last_seq", big=True),
    whole("size", big=True),
    whole("stored_bytes", big=True),
    whole("lost_bytes", big=True),
    flag("truncated"),
    moment("updated_at", null=False, now=True),
    # Bytes at the end that may be the beginning of a secret: not shown before it is known what follows.
    whole("held"),
    postgresql_with={"fillfactor": "70"},
)

log_chunks = Table(
    "log_chunks",
    metadata,
    identity("step_run_id", to="step_runs.id"),
    whole("seq", None, big=True),
    whole("start_offset", None, big=True),
    whole("raw_size", None),
    Column("compression", SmallInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    moment("received_at", null=False, now=True),
    PrimaryKeyConstraint("step_run_id", "seq"),
)

agent_events = Table(
    "agent_events",
    metadata,
    identity("agent_id", to="agents.id"),
    whole("seq", None, big=True),
    words("event_id", default=None),
    words("pipeline_id"),
    words("step_run_id"),
    words("event_type", default=None),
    document("payload"),
    moment("occurred_at"),
    moment("received_at", null=False, now=True),
    PrimaryKeyConstraint("agent_id", "seq"),
    UniqueConstraint("agent_id", "event_id"),
)

artifacts = Table(
    "artifacts",
    metadata,
    identity(key=True),
    identity("job_run_id", to="job_runs.id"),
    identity("step_run_id", null=True, to="step_runs.id"),
    words("name", default=None),
    words("path"),
    words("uri"),
    whole("size", big=True),
    moment("created_at", null=False, now=True),
    moment("expires_at"),
    UniqueConstraint("job_run_id", "name"),
)

# What is stored there is compressed already, or is not worth it.
KEEP_CHUNKS_AS_THEY_ARE = "ALTER TABLE log_chunks ALTER COLUMN data SET STORAGE EXTERNAL"
event.listen(log_chunks, "after_create", DDL(KEEP_CHUNKS_AS_THEY_ARE))  # type: ignore[no-untyped-call]
