"""`arcentra logs`."""

from typing import Annotated

import typer

from arcentra_cli import actions, runtime
from arcentra_cli.config import Settings
from arcentra_cli.options import command


def register(app: typer.Typer) -> None:
    """Add the command to the root of the command line."""
    command(app, "logs")(logs)


def logs(
    settings: Settings,
    target: Annotated[str, typer.Argument(metavar="RUN|STEP_RUN", help="Id of a run or of a step run.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for what is still to come.", show_default=False)
    ] = False,
    job: Annotated[str, typer.Option(help="Of a run: only this job.", show_default=False)] = "",
    step: Annotated[str, typer.Option(help="Of a run: only steps of this name.", show_default=False)] = "",
) -> None:
    """Show logs: of a step run, or of every step of a run, each line behind `job/step | `."""
    runtime.run(actions.logs.logs(settings, target, follow=follow, job=job, step=step))
