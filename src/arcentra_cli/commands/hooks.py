"""`arcentra hook`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from arcentra_cli import actions, runtime
from arcentra_cli.config import Settings
from arcentra_cli.options import command

app = typer.Typer(help="Hooks: where code hosts deliver events; create, list, rotate, delete.", no_args_is_help=True)

HookName = Annotated[str, typer.Argument(metavar="HOOK", help="NAME, NAMESPACE/NAME or id.")]
SecretFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File with the secret, - for standard input. The server makes one by default."),
]


class Forge(StrEnum):
    """Who sends to a hook."""

    GITHUB = "github"
    GITLAB = "gitlab"
    GITEA = "gitea"
    GENERIC = "generic"


@command(app, "create")
def create(
    settings: Settings,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the hook.")],
    *,
    forge: Annotated[Forge, typer.Option(help="Who sends. Gitea is Forgejo too.")],
    pipeline: Annotated[
        str | None,
        typer.Option(metavar="PIPELINE", help="The only pipeline it can start; by default all of the namespace."),
    ] = None,
    secret_file: SecretFile = None,
) -> None:
    """Make a hook, and print its secret this once."""
    runtime.run(actions.hooks.create(settings, name, forge, pipeline, secret_file))


@command(app, "list")
def list_(settings: Settings) -> None:
    """List hooks, of every namespace unless -n names one."""
    runtime.run(actions.hooks.list_hooks(settings))


@command(app, "rotate")
def rotate(settings: Settings, hook: HookName, secret_file: SecretFile = None) -> None:
    """Give a hook a new secret, and print it this once. The one before stays good for a day."""
    runtime.run(actions.hooks.rotate(settings, hook, secret_file))


@command(app, "delete")
def delete(settings: Settings, hook: HookName) -> None:
    """Delete a hook. What it delivered stays in the ledger."""
    runtime.run(actions.hooks.delete(settings, hook))
