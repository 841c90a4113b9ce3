"""What starts runs by itself: triggers, hooks and their deliveries, and the ledger of what came of them."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Index, LargeBinary, PrimaryKeyConstraint, Table, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB

from arcentra_server.db.tables.columns import document, identity, metadata, moment, one_of, whole, words
from arcentra_server.domain.forge import Forge
from arcentra_server.domain.trigger_entries import TriggerOutcome

# The triggers of the definitions in force. Of equal ones of a pipeline there is one row.
triggers = Table(
    "triggers",
    metadata,
    identity("pipeline_id", to="pipelines.id"),
    words("digest", default=None),
    whole("trigger_index", None),
    words("type", default=None),
    Column("document", JSONB, nullable=False),
    # The tick that a schedule waits for; none while the pipeline is disabled.
    moment("next_at"),
    # Until then another server is at it.
    moment("claimed_until"),
    moment("last_fired_at"),
    identity("last_run_id", null=True),
    PrimaryKeyConstraint("pipeline_id", "digest"),
    one_of("type", ("CRON", "EVENT"), "type"),
    CheckConstraint("next_at IS NULL OR type = 'CRON'", name="next_at"),
    Index("ix_triggers_due", "next_at", postgresql_where=text("next_at IS NOT NULL")),
    postgresql_with={"fillfactor": "70"},
)

hooks = Table(
    "hooks",
    metadata,
    identity(key=True),
    words("namespace", default=None),
    identity("pipeline_id", null=True, to="pipelines.id"),
    words("name", default=None),
    words("forge", default=None),
    whole("secret_version", 1),
    moment("created_at", null=False, now=True),
    words("created_by"),
    moment("last_delivery_at"),
    UniqueConstraint("namespace", "name"),
    one_of("forge", Forge, "forge"),
    postgresql_with={"fillfactor": "70"},
)

# As `domain/secret_box.py` seals them. The secret of the highest version is in force, others until they expire.
hook_secrets = Table(
    "hook_secrets",
    metadata,
    identity("hook_id", to="hooks.id"),
    whole("version", None),
    words("algorithm", default=None),
    words("key_id", default=None),
    Column("wrapped_key", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    moment("created_at", null=False, now=True),
    moment("expires_at"),
    PrimaryKeyConstraint("hook_id", "version"),
    Index("ix_hook_secrets_key_id", "key_id"),
)

# Deliveries with a good signature, for as long as one of them may come again.
hook_deliveries = Table(
    "hook_deliveries",
    metadata,
    identity(key=True),
    identity("hook_id", to="hooks.id"),
    words("delivery_id", null=True),
    Column("body_hash", LargeBinary, nullable=False),
    moment("received_at", null=False, now=True),
    # The event, until it is known what came of it.
    Column("event", JSONB, nullable=True),
    moment("claimed_until"),
    whole("tries"),
    words("outcome", null=True),
    words("reason"),
    document("runs", "[]"),
    UniqueConstraint("hook_id", "body_hash"),
    one_of("outcome", TriggerOutcome, "outcome"),
    CheckConstraint("(event IS NULL) = (outcome IS NOT NULL)", name="finished"),
    Index(
        "uq_hook_deliveries_delivery",
        "hook_id",
        "delivery_id",
        unique=True,
        postgresql_where=text("delivery_id IS NOT NULL"),
    ),
    Index("ix_hook_deliveries_unfinished", "claimed_until", postgresql_where=text("outcome IS NULL")),
    Index("ix_hook_deliveries_received", "received_at"),
)

# What it is about may be gone by the time it is read: nothing here refers to other rows.
trigger_events = Table(
    "trigger_events",
    metadata,
    identity(key=True),
    # Says the same of the same: an entry is written once, however often it is tried.
    words("key", default=None),
    moment("at", null=False, now=True),
    words("type", default=None),
    words("namespace", default=None),
    identity("pipeline_id", null=True),
    whole("trigger_index", -1),
    identity("hook_id", null=True),
    words("delivery_id"),
    moment("tick_at"),
    words("outcome", default=None),
    words("reason"),
    identity("run_id", null=True),
    words("summary"),
    # How often it happened: refusals and repeated deliveries are one entry for many.
    whole("count", 1),
    UniqueConstraint("key"),
    one_of("type", ("CRON", "EVENT"), "type"),
    one_of("outcome", TriggerOutcome, "outcome"),
    Index("ix_trigger_events_at", "at"),
    Index("ix_trigger_events_pipeline", "pipeline_id", "at"),
    Index("ix_trigger_events_namespace", "namespace", "at"),
    Index("ix_trigger_events_hook", "hook_id", "at"),
)
