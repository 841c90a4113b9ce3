"""Pipelines and the versions of their definitions."""

from __future__ import annotations

from sqlalchemy import Column, Index, LargeBinary, PrimaryKeyConstraint, Table, text
from sqlalchemy.dialects.postgresql import JSONB

from arcentra_server.db.tables.columns import flag, identity, metadata, moment, one_of, whole, words
from arcentra_server.domain.states import RunStatus

pipelines = Table(
    "pipelines",
    metadata,
    identity(key=True),
    words("namespace", default=None),
    words("name", default=None),
    words("description"),
    flag("enabled", "true"),
    whole("spec_version", 1),
    words("created_by"),
    moment("created_at", null=False, now=True),
    moment("updated_at", null=False, now=True),
    moment("deleted_at"),
    whole("total_runs"),
    whole("success_runs"),
    whole("failed_runs"),
    words("last_status", default="PENDING"),
    one_of("last_status", RunStatus, "last_status"),
    Index("uq_pipelines_name", "namespace", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
    postgresql_with={"fillfactor": "70"},
)

pipeline_specs = Table(
    "pipeline_specs",
    metadata,
    identity("pipeline_id", to="pipelines.id"),
    whole("version", None),
    Column("document", JSONB, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    moment("created_at", null=False, now=True),
    words("created_by"),
    PrimaryKeyConstraint("pipeline_id", "version"),
)
