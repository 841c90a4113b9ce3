"""From the settings of a command to a connected client."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from arcentra_cli.client import Client, connect
from arcentra_cli.config import Endpoint, Settings, resolve
from arcentra_cli.login_file import load_logins, login_path


def endpoint_of(settings: Settings) -> Endpoint:
    """The server and token of a command, from its options, the environment, the login file and this host."""
    return resolve(settings, os.environ, load_logins(login_path(os.environ)), Path.cwd())


@asynccontextmanager
async def session(settings: Settings) -> AsyncIterator[Client]:
    """A connected client.

    Raises:
        CliError: no server or token can be decided, or a call failed.
    """
    async with connect(endpoint_of(settings)) as client:
        yield client
