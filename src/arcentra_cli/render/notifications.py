"""Notifications, as a table."""

from rich.console import RenderableType
from rich.text import Text

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.render import words
from arcentra_cli.render.parts import columns, page

_STYLES = {"sent": "green", "failed": "red", "pending": "yellow"}


def notifications(reply: pipeline_pb2.ListNotificationsResponse) -> RenderableType:
    """Notifications, a row each, with what the last attempt came to."""
    table = columns("job", "outcome", "channel", "state", "attempts", "last error", "queued", "next attempt", "run")
    for one in reply.notifications:
        last = one.attempts[-1] if one.attempts else None
        table.add_row(
            one.job_name,
            one.outcome,
            one.plugin,
            Text(one.state, style=_STYLES.get(one.state, "")),
            str(len(one.attempts)),
            last.error if last else "",
            words.moment(one.created_at),
            words.moment(one.next_at),
            one.run_id,
        )
    return page(table, len(reply.notifications), reply.total, "notifications")
