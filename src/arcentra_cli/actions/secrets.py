"""`secret ...`."""

import getpass
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from arcentra_api.admin.v1 import admin_pb2
from arcentra_cli.actions.lookup import DEFAULT_NAMESPACE, find_pipeline
from arcentra_cli.client import Client
from arcentra_cli.config import Settings
from arcentra_cli.errors import CliError
from arcentra_cli.output import emit
from arcentra_cli.render import secrets as render
from arcentra_cli.secret_input import STANDARD_INPUT, read_value
from arcentra_cli.session import session
from arcentra_cli.terminal import one_line


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where a secret holds, for the server, and in words."""

    namespace: str
    pipeline_id: str
    words: str


async def set_secret(
    settings: Settings, name: str, pipeline: str | None, value_file: Path | None, *, everywhere: bool
) -> None:
    """Set a secret; what to mind about its value goes to stderr."""
    _check_scope(settings, pipeline, everywhere=everywhere)
    value = read_value(value_file) if value_file else _ask_value(name)
    async with session(settings) as client:
        scope = await _scope(client, settings, pipeline, everywhere=everywhere)
        request = admin_pb2.SetSecretRequest(
            namespace=scope.namespace, pipeline_id=scope.pipeline_id, name=name, value=value
        )
        reply = await client.write(client.admin.SetSecret, request)
    emit(settings.output, reply, lambda: Text(f"secret {name} {scope.words} set (version {reply.version})"))
    for warning in reply.warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)


async def list_secrets(settings: Settings, pipeline: str | None) -> None:
    """Show the names of secrets."""
    async with session(settings) as client:
        detail = await find_pipeline(client, pipeline, settings.namespace) if pipeline else None
        request = admin_pb2.ListSecretsRequest(
            namespace="" if detail else settings.namespace or "", pipeline_id=detail.pipeline_id if detail else ""
        )
        reply = await client.read(client.admin.ListSecrets, request)
    emit(settings.output, reply, lambda: render.secrets(reply))


async def delete(settings: Settings, name: str, pipeline: str | None, *, everywhere: bool) -> None:
    """Delete a secret."""
    _check_scope(settings, pipeline, everywhere=everywhere)
    async with session(settings) as client:
        scope = await _scope(client, settings, pipeline, everywhere=everywhere)
        request = admin_pb2.DeleteSecretRequest(namespace=scope.namespace, pipeline_id=scope.pipeline_id, name=name)
        reply = await client.write(client.admin.DeleteSecret, request)
    emit(settings.output, reply, lambda: Text(f"secret {name} {scope.words} deleted"))


def _check_scope(settings: Settings, pipeline: str | None, *, everywhere: bool) -> None:
    if everywhere and (pipeline or settings.namespace):
        raise CliError("--global is for every namespace: it goes with neither --namespace nor --pipeline")


async def _scope(client: Client, settings: Settings, pipeline: str | None, *, everywhere: bool) -> _Scope:
    if everywhere:
        return _Scope("", "", "for every namespace")
    if pipeline:
        detail = await find_pipeline(client, pipeline, settings.namespace)
        return _Scope("", detail.pipeline_id, f"of pipeline {detail.namespace}/{detail.name}")
    namespace = settings.namespace or DEFAULT_NAMESPACE
    return _Scope(namespace, "", f"of namespace {namespace}")


def _ask_value(name: str) -> str:
    if not sys.stdin.isatty():
        return read_value(STANDARD_INPUT)
    value = getpass.getpass(f"Value of {name}: ")
    if not value:
        raise CliError("no value given")
    return value
