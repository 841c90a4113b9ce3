"""The global options: accepted before the command and after it, and handed to the command as one `Settings`."""

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, get_type_hints

import typer

from arcentra_cli.config import OutputFormat, Settings

P = ParamSpec("P")
_PANEL = "Global options"


def _global_options(
    *,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Server to talk to (or ARCENTRA_SERVER; else the last login, else 127.0.0.1:9090).",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="Token to authenticate with (or ARCENTRA_TOKEN).", rich_help_panel=_PANEL),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace of pipelines.", rich_help_panel=_PANEL)
    ] = None,
    output: Annotated[
        OutputFormat | None, typer.Option("--output", "-o", help="How to print answers.", rich_help_panel=_PANEL)
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="Talk TLS, as grpcs:// does; system roots.", rich_help_panel=_PANEL)
    ] = False,
    ca_file: Annotated[
        Path | None, typer.Option(help="Roots to trust instead of the system's, PEM.", rich_help_panel=_PANEL)
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Allow the token in clear text over a network.", rich_help_panel=_PANEL),
    ] = False,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="Print no colours (or NO_COLOR).", rich_help_panel=_PANEL)
    ] = False,
) -> None:
    """Hold the options' declarations; never called."""


_SIGNATURE = inspect.signature(_global_options)
_HINTS = {name: hint for name, hint in get_type_hints(_global_options, include_extras=True).items() if name != "return"}


def command(app: typer.Typer, name: str) -> Callable[[Callable[Concatenate[Settings, P], None]], Callable[..., None]]:
    """Register a command whose first parameter is the `Settings` of the call."""

    def register(body: Callable[Concatenate[Settings, P], None]) -> Callable[..., None]:
        wrapped = with_global_options(body)
        app.command(name)(wrapped)
        return wrapped

    return register


def with_global_options(body: Callable[Concatenate[Settings, P], None]) -> Callable[..., None]:
    """Replace the first parameter of `body`, its settings, by the global options.

    The signature is rewritten because typer reads what a command takes from it.
    """

    @functools.wraps(body)
    def wrapped(_context: typer.Context, **values: Any) -> None:
        given = {name: values.pop(name) for name in _HINTS}
        if given.pop("no_color"):
            os.environ["NO_COLOR"] = "1"  # rich and typer's own messages both look there
        root = _context.find_root()
        settings = merge(root.obj if isinstance(root.obj, Settings) else Settings(), given)
        if _context is root:
            root.obj = settings
        body(settings, **values)  # type: ignore[call-arg]  # the names come from the signature of `body`

    own = list(inspect.signature(body).parameters.values())[1:]
    context = inspect.Parameter("_context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    wrapped.__signature__ = inspect.Signature([context, *keyword, *_SIGNATURE.parameters.values()])  # type: ignore[attr-defined]
    hints = get_type_hints(body, include_extras=True)
    wrapped.__annotations__ = {"_context": typer.Context, **{p.name: hints[p.name] for p in own}, **_HINTS}
    return wrapped


def merge(settings: Settings, given: dict[str, Any]) -> Settings:
    """The settings with every option that was given; what was not given leaves them as they are."""
    known = {field.name for field in fields(Settings)}
    return replace(settings, **{name: value for name, value in given.items() if value and name in known})
