"""Notifications: the outbox, and the log of what became of each attempt."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index, PrimaryKeyConstraint, Table, text

from arcentra_server.db.tables.columns import document, flag, identity, metadata, moment, one_of, whole, words

notifications = Table(
    "notifications",
    metadata,
    identity(key=True),
    identity("run_id", to="pipeline_runs.id"),
    identity("job_run_id"),
    identity("pipeline_id"),
    words("outcome", default=None),
    words("plugin", default=None),
    document("args"),
    # The end that it tells of; a job may run again before it is sent.
    words("job_name", default=None),
    words("job_status", default=None),
    words("failure_reason"),
    words("error_message"),
    whole("duration_ms", big=True),
    moment("finished_at"),
    words("state", default="pending"),
    # Those that began. One that has no row in the log is under way, or its server ended meanwhile.
    whole("attempts"),
    moment("created_at", null=False, now=True),
    moment("next_at", now=True),
    moment("claimed_until"),
    one_of("outcome", ("success", "failure"), "outcome"),
    one_of("state", ("pending", "sent", "failed"), "state"),
    CheckConstraint("(state = 'pending') = (next_at IS NOT NULL)", name="next"),
    CheckConstraint("state = 'pending' OR claimed_until IS NULL", name="claimed"),
    Index("ix_notifications_due", "next_at", postgresql_where=text("state = 'pending'")),
    Index("ix_notifications_run", "run_id", "created_at"),
    Index("ix_notifications_pipeline", "pipeline_id", "created_at"),
    Index("ix_notifications_created", "created_at"),
    postgresql_with={"fillfactor": "70"},
)

notification_attempts = Table(
    "notification_attempts",
    metadata,
    identity("notification_id", to="notifications.id"),
    whole("number", None),
    moment("at", null=False, now=True),
    flag("delivered"),
    words("error"),
    whole("duration_ms", big=True),
    PrimaryKeyConstraint("notification_id", "number"),
)
