"""`arcentra deployment`."""

from typing import Annotated

import typer

from arcentra_cli import actions, runtime
from arcentra_cli.commands.arguments import Limit, Page, PipelineOption, RunOption
from arcentra_cli.config import Settings
from arcentra_cli.options import command

app = typer.Typer(help="Deployments: which run brought which commit where.", no_args_is_help=True)


@command(app, "list")
def list_(
    settings: Settings,
    pipeline: PipelineOption = None,
    target: Annotated[str, typer.Option(help="Only to this target.", show_default=False)] = "",
    run: RunOption = "",
    page: Page = 1,
    limit: Limit = 20,
) -> None:
    """List deployments, newest first.

    Example: arcentra deployment list --target production
    """
    runtime.run(actions.deployments.list_deployments(settings, pipeline, target, run, page, limit))
