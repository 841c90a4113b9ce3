"""`arcentra secret`."""

from pathlib import Path
from typing import Annotated

import typer

from arcentra_cli import actions, runtime
from arcentra_cli.config import Settings
from arcentra_cli.options import command

app = typer.Typer(help="Secrets of pipelines: set, list, delete. Nobody can read them back.", no_args_is_help=True)

SecretName = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits and _, as steps name it.")]
OfPipeline = Annotated[
    str | None,
    typer.Option(metavar="PIPELINE", help="Of this pipeline alone: NAME, NAMESPACE/NAME or id.", show_default=False),
]
Everywhere = Annotated[bool, typer.Option("--global", help="For every namespace.", show_default=False)]


@command(app, "set")
def set_(
    settings: Settings,
    name: SecretName,
    *,
    pipeline: OfPipeline = None,
    everywhere: Everywhere = False,
    value_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the value, - for standard input."),
    ] = None,
) -> None:
    """Set a secret, or give it a new value, for the namespace of -n (`default`) unless told otherwise.

    The value comes from a file, else it is asked for without being shown, else, without a terminal, it is read from
    standard input. It is no argument because every user of this machine can see command lines while they run, and
    shells keep them in their history. The line break at the end of a value of one line is left out; a value of several
    lines is kept as it is.
    """
    runtime.run(actions.secrets.set_secret(settings, name, pipeline, value_file, everywhere=everywhere))


@command(app, "list")
def list_(settings: Settings, pipeline: OfPipeline = None) -> None:
    """List the names of secrets, of every namespace unless -n names one. Values are never shown."""
    runtime.run(actions.secrets.list_secrets(settings, pipeline))


@command(app, "delete")
def delete(
    settings: Settings, name: SecretName, *, pipeline: OfPipeline = None, everywhere: Everywhere = False
) -> None:
    """Delete a secret of the namespace of -n (`default`) unless told otherwise. Steps that name it fail from now on."""
    runtime.run(actions.secrets.delete(settings, name, pipeline, everywhere=everywhere))
