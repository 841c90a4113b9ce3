"""Notifications as a table."""

from __future__ import annotations

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.render.notifications import notifications
from tests.cli.test_render import NOW, text_of


def test_a_row_for_each_with_the_last_error() -> None:
    attempts = [
        pipeline_pb2.NotificationAttempt(at=int(NOW), error="cannot connect"),
        pipeline_pb2.NotificationAttempt(at=int(NOW), error="no answer in time"),
    ]
    rows = [
        pipeline_pb2.NotificationDetail(
            run_id="run-1", job_name="test", plugin="slack", outcome="failure", state="pending", attempts=attempts
        ),
        pipeline_pb2.NotificationDetail(
            run_id="run-1", job_name="build", plugin="mail", outcome="success", state="sent"
        ),
    ]
    shown = text_of(notifications(pipeline_pb2.ListNotificationsResponse(notifications=rows, total=3)))
    first, second, third, rest = shown.splitlines()
    assert first.split()[:3] == ["JOB", "OUTCOME", "CHANNEL"]
    assert second.split() == ["test", "failure", "slack", "pending", "2", "no", "answer", "in", "time", "run-1"]
    assert third.split() == ["build", "success", "mail", "sent", "0", "run-1"]
    assert rest == "2 of 3 notifications"


def test_none() -> None:
    assert text_of(notifications(pipeline_pb2.ListNotificationsResponse())) == "no notifications\n"
