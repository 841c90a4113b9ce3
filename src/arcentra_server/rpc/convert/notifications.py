"""Notifications between the contract and the outbox."""

from __future__ import annotations

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.db.notifications import NotificationRow
from arcentra_server.rpc.convert.fields import unix_seconds


def notification_to(row: NotificationRow) -> pipeline_pb2.NotificationDetail:
    """Return a notification with its attempts as it is shown."""
    return pipeline_pb2.NotificationDetail(
        notification_id=str(row.id),
        run_id=str(row.run_id),
        job_name=row.job_name,
        plugin=row.plugin,
        outcome=row.outcome,
        state=row.state,
        attempts=[
            pipeline_pb2.NotificationAttempt(
                at=unix_seconds(attempt.at),
                delivered=attempt.delivered,
                error=attempt.error,
                duration_ms=attempt.duration_ms,
            )
            for attempt in row.attempts
        ],
        created_at=unix_seconds(row.created_at),
        next_at=unix_seconds(row.next_at),
    )
