"""`hook ...`."""

from pathlib import Path

from rich.text import Text

from arcentra_api.admin.v1 import admin_pb2
from arcentra_cli.actions.lookup import DEFAULT_NAMESPACE, find_pipeline, is_id
from arcentra_cli.client import Client
from arcentra_cli.config import Settings
from arcentra_cli.errors import CliError
from arcentra_cli.output import emit
from arcentra_cli.render import triggers as render
from arcentra_cli.secret_input import read_secret
from arcentra_cli.session import session


async def create(settings: Settings, name: str, forge: str, pipeline: str | None, secret_file: Path | None) -> None:
    """Make a hook and show its secret, this once."""
    secret = read_secret(secret_file)
    async with session(settings) as client:
        detail = await find_pipeline(client, pipeline, settings.namespace) if pipeline else None
        request = admin_pb2.CreateHookRequest(
            namespace=detail.namespace if detail else settings.namespace or "",
            pipeline_id=detail.pipeline_id if detail else "",
            name=name,
            forge=admin_pb2.Forge.Value(f"FORGE_{forge.upper()}"),
            secret=secret,
        )
        reply = await client.write(client.admin.CreateHook, request)
    emit(settings.output, reply, lambda: render.created_hook(reply))


async def list_hooks(settings: Settings) -> None:
    """Show the hooks."""
    async with session(settings) as client:
        reply = await client.read(client.admin.ListHooks, _hooks_of(settings.namespace))
    emit(settings.output, reply, lambda: render.hooks(reply))


async def rotate(settings: Settings, hook: str, secret_file: Path | None) -> None:
    """Give a hook a new secret and show it, this once."""
    secret = read_secret(secret_file)
    async with session(settings) as client:
        hook_id = await _find(client, hook, settings.namespace)
        request = admin_pb2.RotateHookSecretRequest(hook_id=hook_id, secret=secret)
        reply = await client.write(client.admin.RotateHookSecret, request)
    emit(settings.output, reply, lambda: render.rotated_hook(reply))


async def delete(settings: Settings, hook: str) -> None:
    """Delete a hook."""
    async with session(settings) as client:
        hook_id = await _find(client, hook, settings.namespace)
        reply = await client.write(client.admin.DeleteHook, admin_pb2.DeleteHookRequest(hook_id=hook_id))
    emit(settings.output, reply, lambda: Text(f"hook {hook} deleted"))


def _hooks_of(namespace: str | None) -> admin_pb2.ListHooksRequest:
    return admin_pb2.ListHooksRequest(namespace=namespace or "")


async def _find(client: Client, text: str, namespace: str | None) -> str:
    """The id of the hook of `NAME`, `NAMESPACE/NAME` or an id.

    Raises:
        CliError: there is none.
    """
    if is_id(text):
        return text
    named, separator, name = text.rpartition("/")
    wanted = named if separator else namespace or DEFAULT_NAMESPACE
    reply = await client.read(client.admin.ListHooks, _hooks_of(wanted))
    for hook in reply.hooks:
        if hook.name == name:
            return str(hook.hook_id)
    raise CliError(f"no hook {name!r} in namespace {wanted!r}: see `arcentra hook list`")
