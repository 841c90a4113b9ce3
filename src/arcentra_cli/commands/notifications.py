"""`arcentra notification`."""

from typing import Annotated

import typer

from arcentra_cli import actions, runtime
from arcentra_cli.commands.arguments import Limit, Page
from arcentra_cli.config import Settings
from arcentra_cli.options import command

app = typer.Typer(help="Notifications: who was told of the end of a job, and how that went.", no_args_is_help=True)


@command(app, "list")
def list_(
    settings: Settings,
    run: Annotated[str, typer.Option(metavar="RUN", help="Only of this run.", show_default=False)] = "",
    pipeline: Annotated[
        str | None, typer.Option(metavar="PIPELINE", help="Only of this pipeline: NAME, NAMESPACE/NAME or id.")
    ] = None,
    page: Page = 1,
    limit: Limit = 20,
) -> None:
    """List notifications with their last attempts, newest first; `-o json` shows every attempt."""
    runtime.run(actions.notifications.list_notifications(settings, run, pipeline, page, limit))
