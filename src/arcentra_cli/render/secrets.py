"""Secrets, as a table."""

from rich.console import RenderableType
from rich.text import Text

from arcentra_api.admin.v1 import admin_pb2
from arcentra_cli.render import words
from arcentra_cli.render.parts import columns


def secrets(reply: admin_pb2.ListSecretsResponse) -> RenderableType:
    """The names of secrets, a row each."""
    table = columns("namespace", "pipeline", "name", "version", "changed", "by", right=("version",))
    for secret in reply.secrets:
        table.add_row(
            secret.namespace or "(all)",
            secret.pipeline_id or "(all)",
            secret.name,
            str(secret.version),
            words.moment(secret.updated_at),
            secret.updated_by,
        )
    return table if reply.secrets else Text("no secrets")
