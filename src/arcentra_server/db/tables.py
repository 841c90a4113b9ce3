"""The schema. It describes and defends; queries are SQL text in the modules beside this one.

States are text with a CHECK, so that adding one is cheap. `finished_at` is set if and only if the state is final; a
step run has at most one lease that has not ended. Columns that hold wire forms (`dispatch`) are opaque here.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    event,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP, UUID

from arcentra_server.domain.states import RUN_TERMINAL, STEP_TERMINAL, AgentStatus, RunStatus, StepStatus

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id(name: str = "id", *, key: bool = False, to: str | None = None, null: bool = False) -> Column[object]:
    references = [ForeignKey(to, ondelete="CASCADE")] if to else []
    return Column(name, UUID(as_uuid=True), *references, primary_key=key, nullable=null)


def _text(name: str, *, null: bool = False, default: str | None = "") -> Column[object]:
    return Column(name, Text, nullable=null, server_default=None if null or default is None else text(f"'{default}'"))


def _int(name: str, default: int | None = 0, *, null: bool = False, big: bool = False) -> Column[object]:
    return Column(
        name,
        BigInteger if big else Integer,
        nullable=null,
        server_default=None if null or default is None else text(str(default)),
    )


def _time(name: str, *, null: bool = True, now: bool = False) -> Column[object]:
    return Column(name, TIMESTAMP(timezone=True), nullable=null, server_default=func.clock_timestamp() if now else None)


def _flag(name: str, default: str = "false") -> Column[object]:
    return Column(name, Boolean, nullable=False, server_default=text(default))


def _json(name: str, default: str = "{}") -> Column[object]:
    return Column(name, JSONB, nullable=False, server_default=text(f"'{default}'"))


def _one_of(column: str, values: type[StrEnum] | frozenset[StepStatus] | tuple[str, ...], name: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in sorted(str(value) for value in values))
    return CheckConstraint(f"{column} IN ({listed})", name=name)


def _ended(states: frozenset[StepStatus] | frozenset[RunStatus]) -> CheckConstraint:
    listed = ", ".join(f"'{state}'" for state in sorted(states))
    return CheckConstraint(f"(finished_at IS NOT NULL) = (status IN ({listed}))", name="ended")


server_keys = Table(
    "server_keys", metadata, Column("name", Text, primary_key=True), Column("secret", LargeBinary, nullable=False)
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    _text("kind", default=None),
    _text("name", default=None),
    _text("role", default=None),
    Column("secret_hash", LargeBinary, nullable=False),
    _id("agent_id", null=True, to="agents.id"),
    _json("labels"),
    _int("max_uses", null=True),
    _int("uses"),
    _time("created_at", null=False, now=True),
    _time("expires_at"),
    _time("revoked_at"),
    _time("last_used_at"),
    _one_of("kind", ("user", "registration", "agent"), "kind"),
    CheckConstraint("max_uses IS NULL OR uses <= max_uses", name="uses"),
    CheckConstraint("(kind = 'agent') = (agent_id IS NOT NULL)", name="agent"),
    Index("ix_tokens_agent", "agent_id", postgresql_where=text("agent_id IS NOT NULL")),
)

agents = Table(
    "agents",
    metadata,
    _id(key=True),
    _text("name", default=None),
    _text("ip"),
    _text("os"),
    _text("arch"),
    _text("version"),
    _int("capacity", 1),
    _json("claimed_labels"),
    _json("server_labels"),
    _text("status", default="OFFLINE"),
    _json("metrics"),
    _time("created_at", null=False, now=True),
    _time("last_contact_at"),
    _time("lease_until"),
    _time("deleted_at"),
    _one_of("status", AgentStatus, "status"),
    CheckConstraint("capacity BETWEEN 1 AND 10000", name="capacity"),
    postgresql_with={"fillfactor": "70"},
)

pipelines = Table(
    "pipelines",
    metadata,
    _id(key=True),
    _text("namespace", default=None),
    _text("name", default=None),
    _text("description"),
    _flag("enabled", "true"),
    _int("spec_version", 1),
    _text("created_by"),
    _time("created_at", null=False, now=True),
    _time("updated_at", null=False, now=True),
    _time("deleted_at"),
    _int("total_runs"),
    _int("success_runs"),
    _int("failed_runs"),
    _text("last_status", default="PENDING"),
    _one_of("last_status", RunStatus, "last_status"),
    Index("uq_pipelines_name", "namespace", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
    postgresql_with={"fillfactor": "70"},
)

pipeline_specs = Table(
    "pipeline_specs",
    metadata,
    _id("pipeline_id", to="pipelines.id"),
    _int("version", None),
    Column("document", JSONB, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    _time("created_at", null=False, now=True),
    _text("created_by"),
    PrimaryKeyConstraint("pipeline_id", "version"),
)

selectors = Table(
    "selectors",
    metadata,
    Column("id", Integer, Identity(), primary_key=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("document", JSONB, nullable=False),
)

pipeline_runs = Table(
    "pipeline_runs",
    metadata,
    _id(key=True),
    _id("pipeline_id", to="pipelines.id"),
    _text("namespace", default=None),
    _int("spec_version", None),
    _text("status", default="PENDING"),
    _text("outcome", default="SKIPPED"),
    _text("trigger_type", default="MANUAL"),
    _text("triggered_by"),
    _text("branch"),
    _text("commit_sha"),
    _json("variables"),
    _text("request_id", null=True),
    _flag("paused"),
    _flag("stopped"),
    _text("status_reason"),
    _int("stage_count", 1),
    _int("total_jobs"),
    _int("completed_jobs"),
    _int("failed_jobs"),
    _int("running_jobs"),
    _time("created_at", null=False, now=True),
    _time("started_at"),
    _time("finished_at"),
    _one_of("status", RunStatus, "status"),
    _one_of("trigger_type", ("MANUAL", "CRON", "EVENT"), "trigger_type"),
    _ended(RUN_TERMINAL),
    CheckConstraint(
        "running_jobs >= 0 AND completed_jobs + running_jobs <= total_jobs AND failed_jobs <= completed_jobs",
        name="counters",
    ),
    Index(
        "uq_pipeline_runs_request",
        "pipeline_id",
        "request_id",
        unique=True,
        postgresql_where=text("request_id IS NOT NULL"),
    ),
    Index("ix_pipeline_runs_unfinished", "pipeline_id", postgresql_where=text("finished_at IS NULL")),
    Index("ix_pipeline_runs_created", "created_at"),
    Index("ix_pipeline_runs_pipeline", "pipeline_id", "created_at"),
    Index("ix_pipeline_runs_namespace", "namespace", "created_at"),
    postgresql_with={"fillfactor": "70"},
)

run_stages = Table(
    "run_stages",
    metadata,
    _id("run_id", to="pipeline_runs.id"),
    _int("stage_index", None),
    _text("name", default=None),
    _int("open_jobs", None),
    PrimaryKeyConstraint("run_id", "stage_index"),
    CheckConstraint("open_jobs >= 0", name="open_jobs"),
    postgresql_with={"fillfactor": "70"},
)

job_runs = Table(
    "job_runs",
    metadata,
    _id(key=True),
    _id("run_id", to="pipeline_runs.id"),
    _id("pipeline_id"),
    _text("name", default=None),
    _int("stage_index", None),
    _int("job_index", None),
    _text("status", default="PENDING"),
    _text("outcome", default="SKIPPED"),
    _int("selector_id", None),
    _id("agent_id", null=True),
    _int("timeout_ms", null=True, big=True),
    _int("total_steps"),
    _int("completed_steps"),
    _int("failed_steps"),
    _int("running_steps"),
    _int("current_step"),
    _int("exit_code"),
    _text("error_message"),
    _time("created_at", null=False, now=True),
    _time("started_at"),
    _time("finished_at"),
    _one_of("status", RunStatus, "status"),
    _ended(RUN_TERMINAL),
    CheckConstraint("completed_steps + running_steps <= total_steps AND running_steps >= 0", name="counters"),
    UniqueConstraint("run_id", "name"),
    Index("ix_job_runs_stage", "run_id", "stage_index"),
    postgresql_with={"fillfactor": "70"},
)

step_runs = Table(
    "step_runs",
    metadata,
    _id(key=True),
    _id("run_id", to="pipeline_runs.id"),
    _id("job_run_id", to="job_runs.id"),
    _id("pipeline_id"),
    _text("name", default=None),
    _int("step_index", None),
    _int("attempt", 1),
    _flag("superseded"),
    _text("status", default="PENDING"),
    _int("selector_id", None),
    _flag("own_selector"),
    _flag("continue_on_error"),
    _int("timeout_ms", null=True, big=True),
    Column("dispatch", LargeBinary, nullable=False),
    _flag("added"),
    _id("agent_id", null=True),
    _text("cancel_cause", null=True),
    _time("cancel_requested_at"),
    _text("cancel_reason"),
    _int("exit_code", null=True),
    _text("error_message"),
    _text("failure_reason", null=True),
    _json("metrics"),
    _int("log_size", null=True, big=True),
    _text("created_by"),
    _time("created_at", null=False, now=True),
    _time("started_at"),
    _time("finished_at"),
    _one_of("status", StepStatus, "status"),
    _ended(STEP_TERMINAL),
    CheckConstraint("status <> 'RUNNING' OR (started_at IS NOT NULL AND agent_id IS NOT NULL)", name="running"),
    CheckConstraint("cancel_cause IN ('request', 'timeout')", name="cancel_cause"),
    CheckConstraint("(cancel_cause IS NULL) = (cancel_requested_at IS NULL)", name="cancel_requested"),
    Index("uq_step_runs_attempt", "job_run_id", "step_index", "attempt", unique=True),
    Index("ix_step_runs_run", "run_id"),
    Index("ix_step_runs_pipeline", "pipeline_id", "created_at"),
    Index("ix_step_runs_created", "created_at"),
    postgresql_with={"fillfactor": "70"},
)

step_queue = Table(
    "step_queue",
    metadata,
    _id("step_run_id", key=True, to="step_runs.id"),
    _int("selector_id", None),
    _int("priority"),
    _id("run_id"),
    _id("agent_id", null=True),
    _flag("held"),
    _time("ready_at", null=False, now=True),
    # The two ways in: by selector for work that any matching agent takes, by agent for work that is bound to one.
    Index(
        "ix_step_queue_free",
        "selector_id",
        text("priority DESC"),
        "run_id",
        "step_run_id",
        postgresql_where=text("agent_id IS NULL AND NOT held"),
    ),
    Index("ix_step_queue_bound", "agent_id", postgresql_where=text("agent_id IS NOT NULL")),
    Index("ix_step_queue_run", "run_id"),
)

leases = Table(
    "leases",
    metadata,
    _id(key=True),
    _id("step_run_id", to="step_runs.id"),
    _id("agent_id", to="agents.id"),
    _time("created_at", null=False, now=True),
    _time("ended_at"),
    _text("end_reason", null=True),
    CheckConstraint("(ended_at IS NULL) = (end_reason IS NULL)", name="ended"),
    Index("uq_leases_active", "step_run_id", unique=True, postgresql_where=text("ended_at IS NULL")),
    Index("ix_leases_step", "step_run_id"),
    Index("ix_leases_agent", "agent_id", postgresql_where=text("ended_at IS NULL")),
    postgresql_with={"fillfactor": "70"},
)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    # The transaction that wrote the event: a reader with a snapshot knows by it which events the snapshot holds.
    Column("xid", BigInteger, nullable=False, server_default=text("((pg_current_xact_id())::text)::bigint")),
    _time("at", null=False, now=True),
    _text("resource", default=None),
    _id("pipeline_id", null=True),
    _id("run_id", null=True),
    _id("job_run_id", null=True),
    _id("step_run_id", null=True),
    _id("agent_id", null=True),
    _text("status", default=None),
    _text("previous_status", null=True),
    _int("total"),
    _int("completed"),
    _int("failed"),
    _int("running"),
    _int("current"),
    _text("message"),
    _text("actor"),
    _one_of("resource", ("step", "job", "run", "agent"), "resource"),
    Index("ix_events_run", "run_id", "id"),
)

step_logs = Table(
    "step_logs",
    metadata,
    _id("step_run_id", key=True, to="step_runs.id"),
    _int("last_seq", big=True),
    _int("size", big=True),
    _int("stored_bytes", big=True),
    _int("lost_bytes", big=True),
    _flag("truncated"),
    _time("updated_at", null=False, now=True),
    postgresql_with={"fillfactor": "70"},
)

log_chunks = Table(
    "log_chunks",
    metadata,
    _id("step_run_id", to="step_runs.id"),
    _int("seq", None, big=True),
    _int("start_offset", None, big=True),
    _int("raw_size", None),
    Column("compression", SmallInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    _time("received_at", null=False, now=True),
    PrimaryKeyConstraint("step_run_id", "seq"),
)

agent_events = Table(
    "agent_events",
    metadata,
    _id("agent_id", to="agents.id"),
    _int("seq", None, big=True),
    _text("event_id", default=None),
    _text("pipeline_id"),
    _text("step_run_id"),
    _text("event_type", default=None),
    _json("payload"),
    _time("occurred_at"),
    _time("received_at", null=False, now=True),
    PrimaryKeyConstraint("agent_id", "seq"),
    UniqueConstraint("agent_id", "event_id"),
)

artifacts = Table(
    "artifacts",
    metadata,
    _id(key=True),
    _id("job_run_id", to="job_runs.id"),
    _id("step_run_id", null=True, to="step_runs.id"),
    _text("name", default=None),
    _text("path"),
    _text("uri"),
    _int("size", big=True),
    _time("created_at", null=False, now=True),
    _time("expires_at"),
    UniqueConstraint("job_run_id", "name"),
)

# What is stored there is compressed already, or is not worth it.
KEEP_CHUNKS_AS_THEY_ARE = "ALTER TABLE log_chunks ALTER COLUMN data SET STORAGE EXTERNAL"
event.listen(log_chunks, "after_create", DDL(KEEP_CHUNKS_AS_THEY_ARE))  # type: ignore[no-untyped-call]
