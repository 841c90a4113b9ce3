"""Secrets: one row each, with the version that is in force.

A value that is replaced is gone: no step gets it any more, and what was replaced because it leaked, or when somebody
left, must not lie around. The numbers of the versions go on, so that it can be told that a value was changed.

A deleted pipeline keeps its secrets, as it keeps its runs. Nothing can use them, as it cannot be run; and its name
gives nobody access to them, as they are bound to its id.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, LargeBinary, Table, UniqueConstraint

from arcentra_server.db.tables.columns import identity, metadata, moment, whole, words

secrets = Table(
    "secrets",
    metadata,
    identity(key=True),
    # Neither: it holds everywhere. A secret of a pipeline has the namespace of the pipeline too.
    words("namespace"),
    identity("pipeline_id", null=True, to="pipelines.id"),
    words("name", default=None),
    whole("version", 1),
    words("algorithm", default=None),
    words("key_id", default=None),
    Column("wrapped_key", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    moment("created_at", null=False, now=True),
    moment("updated_at", null=False, now=True),
    words("updated_by"),
    CheckConstraint("pipeline_id IS NULL OR namespace <> ''", name="scope"),
    UniqueConstraint("name", "namespace", "pipeline_id", postgresql_nulls_not_distinct=True),
)
