"""`arcentra agent`."""

import typer

from arcentra_cli import actions, runtime
from arcentra_cli.config import Settings
from arcentra_cli.options import command

app = typer.Typer(help="Agents: list.", no_args_is_help=True)


@command(app, "list")
def list_(settings: Settings) -> None:
    """List the registered agents."""
    runtime.run(actions.agents.list_agents(settings))
