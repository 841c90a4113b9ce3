"""`arcentra login` and `arcentra whoami`."""

import getpass
import sys

import typer

from arcentra_cli import actions, runtime
from arcentra_cli.config import Settings
from arcentra_cli.errors import CliError
from arcentra_cli.options import command


def register(app: typer.Typer) -> None:
    """Add the commands to the root of the command line."""
    command(app, "login")(login)
    command(app, "whoami")(whoami)


def login(settings: Settings) -> None:
    """Log in to a server: check a token, then keep it for the commands that follow.

    The token comes from --token, else from a prompt, else from standard input.
    """
    runtime.run(actions.auth.login(settings, settings.token or _ask_token()))


def whoami(settings: Settings) -> None:
    """Show as whom, and where, commands are run."""
    runtime.run(actions.auth.whoami(settings))


def _ask_token() -> str:
    token = (getpass.getpass("Token: ") if sys.stdin.isatty() else sys.stdin.readline()).strip()
    if not token:
        raise CliError("no token given: use --token, or write it to standard input")
    return token
