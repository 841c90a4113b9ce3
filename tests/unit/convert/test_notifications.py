"""Notifications as a caller sees them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_server.db.notifications import AttemptRow, NotificationRow
from arcentra_server.rpc.convert.notifications import notification_to

AT = datetime(2026, 1, 1, tzinfo=UTC)
ID, RUN = UUID(int=1), UUID(int=2)


def test_all_fields() -> None:
    attempts = (AttemptRow(AT, delivered=False, error="cannot connect", duration_ms=7),)
    row = NotificationRow(ID, RUN, "test", "slack", "failure", "pending", AT, AT + timedelta(seconds=10), attempts)
    assert notification_to(row) == pipeline_pb2.NotificationDetail(
        notification_id=str(ID),
        run_id=str(RUN),
        job_name="test",
        plugin="slack",
        outcome="failure",
        state="pending",
        created_at=1_767_225_600,
        next_at=1_767_225_610,
        attempts=[pipeline_pb2.NotificationAttempt(at=1_767_225_600, error="cannot connect", duration_ms=7)],
    )


def test_no_further_attempt_is_zero() -> None:
    row = NotificationRow(ID, RUN, "test", "slack", "failure", "sent", AT, None, ())
    assert notification_to(row).next_at == 0
