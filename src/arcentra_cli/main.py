"""Entry point of `arcentra`: the root of the commands, and the one place where errors become exit codes."""

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from arcentra_cli import exit_codes
from arcentra_cli.commands import (
    agents,
    approvals,
    auth,
    concurrency,
    deployments,
    hooks,
    logs,
    notifications,
    pipelines,
    runs,
    secrets,
    steps,
    triggers,
)
from arcentra_cli.config import Settings
from arcentra_cli.errors import CliError
from arcentra_cli.options import with_global_options

app = typer.Typer(
    help="Command line of an Arcentra server: pipelines, runs, logs and agents.",
    epilog=exit_codes.HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
auth.register(app)
app.add_typer(pipelines.app, name="pipeline")
app.add_typer(runs.app, name="run")
logs.register(app)
app.add_typer(steps.app, name="step")
app.add_typer(agents.app, name="agent")
app.add_typer(secrets.app, name="secret")
app.add_typer(triggers.app, name="trigger")
app.add_typer(hooks.app, name="hook")
app.add_typer(notifications.app, name="notification")
app.add_typer(approvals.app, name="approval")
app.add_typer(concurrency.app, name="concurrency")
app.add_typer(deployments.app, name="deployment")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"arcentra {version('arcentra-server')}")
        raise typer.Exit


@app.callback()
@with_global_options
def root(
    settings: Settings,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Command line of an Arcentra server: pipelines, runs, logs and agents."""


def main() -> None:
    """Run the command line; never returns."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the gRPC core writes its own notes to stderr
    try:
        app(prog_name="arcentra")
    except CliError as error:
        error.report()
        sys.exit(int(error.exit_code))
