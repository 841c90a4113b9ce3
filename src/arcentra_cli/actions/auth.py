"""`login` and `whoami`."""

import os
from dataclasses import replace

from arcentra_api.admin.v1 import admin_pb2
from arcentra_cli.client import connect
from arcentra_cli.config import Endpoint, Settings
from arcentra_cli.login_file import Login, load_logins, login_path, save_logins
from arcentra_cli.output import emit
from arcentra_cli.render import tables
from arcentra_cli.session import endpoint_of
from arcentra_cli.terminal import visible


async def login(settings: Settings, token: str) -> None:
    """Check `token` with the server, then store it as the login of that server."""
    endpoint = replace(endpoint_of(settings), token=token, token_source="`arcentra login`")  # noqa: S106 - a place
    reply = await _who_am_i(endpoint)
    path = login_path(os.environ)
    stored = Login(
        token,
        tls=endpoint.address.tls,
        ca_file=str(endpoint.ca_file.absolute()) if endpoint.ca_file else "",
        insecure=endpoint.insecure,
    )
    save_logins(path, load_logins(path).with_login(str(endpoint.address), stored))
    print(visible(f"logged in to {endpoint.address} as {reply.name} ({reply.role}); kept in {path}"))


async def whoami(settings: Settings) -> None:
    """Show who the caller is."""
    endpoint = endpoint_of(settings)
    reply = await _who_am_i(endpoint)
    emit(settings.output, reply, lambda: tables.whoami(reply, str(endpoint.address), endpoint.token_source))


async def _who_am_i(endpoint: Endpoint) -> admin_pb2.WhoAmIResponse:
    async with connect(endpoint) as client:
        return await client.read(client.admin.WhoAmI, admin_pb2.WhoAmIRequest())
