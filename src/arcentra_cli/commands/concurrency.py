"""`arcentra concurrency`."""

from typing import Annotated

import typer

from arcentra_cli import actions, runtime
from arcentra_cli.config import Settings
from arcentra_cli.options import command

app = typer.Typer(help="Concurrency keys: who holds them, and who waits for them.", no_args_is_help=True)


@command(app, "list")
def list_(
    settings: Settings,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Only this key.", show_default=False)] = "",
) -> None:
    """List the keys that are held or waited for, of every namespace unless -n names one; the next waiter first.

    Example: arcentra concurrency list prod
    """
    runtime.run(actions.concurrency.list_keys(settings, key))
