"""Concurrency keys and deployments, as tables."""

from rich.console import RenderableType
from rich.text import Text

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.render import words
from arcentra_cli.render.approvals import short
from arcentra_cli.render.parts import columns, page


def concurrency(reply: pipeline_pb2.ListConcurrencyResponse, now: float) -> RenderableType:
    """Concurrency keys: for each those who hold it, then those who wait for it, the next first."""
    table = columns("namespace", "key", "place", "job", "run", "limit", "since", "for")
    for key in reply.keys:
        held = [("holds", claim) for claim in key.holders]
        waits = [(f"waits {number}", claim) for number, claim in enumerate(key.waiters, 1)]
        for place, claim in held + waits:
            table.add_row(
                key.namespace,
                key.key,
                place,
                f"{claim.pipeline_name}/{claim.job_name}",
                claim.run_id,
                str(claim.limit),
                words.moment(claim.since),
                words.duration(max(0, int(now - claim.since)) * 1_000),
            )
    return table if reply.keys else Text("no concurrency key is held or waited for")


def deployments(reply: pipeline_pb2.ListDeploymentsResponse) -> RenderableType:
    """Deployments, a row each."""
    table = columns("target", "type", "status", "commit", "pipeline", "job", "run", "by", "finished")
    for one in reply.deployments:
        table.add_row(
            one.target,
            one.type,
            words.styled(words.pipeline_status(one.status)),
            short(one.commit_sha),
            f"{one.namespace}/{one.pipeline_name}",
            one.job_name,
            one.run_id,
            one.triggered_by,
            words.moment(one.finished_at),
        )
    return page(table, len(reply.deployments), reply.total, "deployments")
