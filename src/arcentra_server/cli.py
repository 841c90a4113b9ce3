"""The command line `arcentra-server`."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arcentra_server import core_threads, garbage, installation, logs
from arcentra_server.config import Config, ConfigError, load
from arcentra_server.db import embedded
from arcentra_server.db.engine import Database
from arcentra_server.domain.durations import parse_duration
from arcentra_server.domain.errors import ArcentraError
from arcentra_server.domain.identity import USER_ROLES, Role, TokenKind
from arcentra_server.local_agent import LocalAgentFailed, run_local_agent
from arcentra_server.services.auth import AuthService

if TYPE_CHECKING:  # gRPC and alembic cost a second at the start, which most commands need not pay
    from arcentra_server import app as application

CONFIG_EXIT = 78  # EX_CONFIG of sysexits.h

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="The control plane.")
token_cli = typer.Typer(no_args_is_help=True, help="Tokens of users and programs.")
registration_cli = typer.Typer(no_args_is_help=True, help="Tokens with which agents join.")
cli.add_typer(token_cli, name="token")
cli.add_typer(registration_cli, name="registration-token")

ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file with settings.", metavar="FILE")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where everything is kept.", metavar="DIR")]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="ARCENTRA_DATABASE_URL",
        help="A PostgreSQL (15 to 18) to use instead of the embedded one.",
        metavar="URL",
    ),
]
GrpcListen = Annotated[
    str | None,
    typer.Option(
        "--grpc-listen",
        envvar="ARCENTRA_GRPC_LISTEN",
        help="Default 127.0.0.1:9090; port 0 picks one.",
        metavar="HOST:PORT",
    ),
]
HttpListen = Annotated[
    str | None,
    typer.Option(
        "--http-listen",
        envvar="ARCENTRA_HTTP_LISTEN",
        help="Default 127.0.0.1:8080; port 0 picks one.",
        metavar="HOST:PORT",
    ),
]


@cli.command()
def serve(
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    grpc_listen: GrpcListen = None,
    http_listen: HttpListen = None,
    config: ConfigFile = None,
) -> None:
    """Run the server until SIGTERM or Ctrl-C. It prints one line `ready grpc=HOST:PORT http=HOST:PORT`."""
    settings = _load(config, data_dir, database_url, grpc_listen, http_listen)
    _run(_serve(settings, _announce))


@cli.command()
def dev(
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    grpc_listen: GrpcListen = None,
    http_listen: HttpListen = None,
    config: ConfigFile = None,
    capacity: Annotated[int | None, typer.Option(min=1, max=1_000, help="Step runs at a time of the agent.")] = None,
) -> None:
    """Run the server with one local agent."""
    settings = _without_end(_load(config, data_dir, database_url, grpc_listen, http_listen))

    async def with_agent(ready: application.Ready) -> None:
        await _announce(ready)

        async def make_token() -> str:
            return await _issue(settings, TokenKind.REGISTRATION, "local", Role.AGENT, max_uses=1, ttl="1h")

        await run_local_agent(ready.grpc, settings.data_dir / "agent", capacity, make_token)

    _run(_serve(settings, with_agent))


def _without_end(settings: Config) -> Config:
    """Let credentials of agents last for ever, unless it is set how long: a computer may be off for days."""
    if "token_hours" in settings.agents.model_fields_set:
        return settings
    return settings.model_copy(update={"agents": settings.agents.model_copy(update={"token_hours": 0.0})})


@cli.command("migrate")
def run_migrations(data_dir: DataDir = None, database_url: DatabaseUrl = None, config: ConfigFile = None) -> None:
    """Bring the database to the schema of this version; `serve` does it too when it starts."""
    settings = _load(config, data_dir, database_url)

    async def upgrade() -> None:
        dsn = _external_or_running(settings)
        if dsn is not None:
            revisions = await installation.migrate(dsn)
        else:
            async with embedded.EmbeddedPostgres(settings.data_dir) as postgres:
                revisions = await installation.migrate(postgres.dsn())
        for revision in revisions:
            print(f"migrated to {revision}")
        print("the database has the schema of this version")

    _run(upgrade())


@cli.command("check-config")
def check_config(
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    grpc_listen: GrpcListen = None,
    http_listen: HttpListen = None,
    config: ConfigFile = None,
) -> None:
    """Read the configuration, print it as JSON without secrets, and say what is wrong with it."""
    print(_load(config, data_dir, database_url, grpc_listen, http_listen).model_dump_json(indent=2))


@token_cli.command("create")
def create_token(
    role: Annotated[Role, typer.Option(help=f"One of {', '.join(USER_ROLES)}.")],
    name: Annotated[str, typer.Option(help="Who or what uses it.")],
    ttl: Annotated[str, typer.Option(help="How long it is good: 90d, 12h.")] = "90d",
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    config: ConfigFile = None,
) -> None:
    """Make a token and print it alone. It is shown once. Works beside a running server."""
    if role not in USER_ROLES:
        raise typer.BadParameter("agents get their tokens by joining: see registration-token", param_hint="--role")
    settings = _load(config, data_dir, database_url)
    print(_run(_issue(settings, TokenKind.USER, name, role, ttl=ttl)))


@registration_cli.command("create")
def create_registration_token(
    label: Annotated[list[str] | None, typer.Option(help="A label the server gives: k=v.", metavar="K=V")] = None,
    max_uses: Annotated[int, typer.Option(min=1, help="How many agents may join with it.")] = 1,
    ttl: Annotated[str, typer.Option(help="How long it is good: 24h, 30m.")] = "24h",
    needs_approval: Annotated[
        bool, typer.Option("--needs-approval", help="Who joins with it waits for `arcentra agent approve`.")
    ] = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    config: ConfigFile = None,
) -> None:
    """Make a token with which an agent joins and print it alone. Works beside a running server."""
    pairs = [text.partition("=") for text in label or []]
    if any(not key or not separator for key, separator, _ in pairs):
        raise typer.BadParameter("write KEY=VALUE", param_hint="--label")
    settings = _load(config, data_dir, database_url)
    labels = {key: value for key, _, value in pairs}
    work = _issue(
        settings,
        TokenKind.REGISTRATION,
        "registration",
        Role.AGENT,
        labels=labels,
        max_uses=max_uses,
        ttl=ttl,
        needs_approval=needs_approval,
    )
    print(_run(work))


@cli.callback(invoke_without_command=True)
def root(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """A self-hosted CI/CD control plane: pipelines, agents and live logs over gRPC and PostgreSQL."""
    if show_version:
        print(version("arcentra-server"))
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    cli()


async def _serve(settings: Config, ready: Callable[[application.Ready], Coroutine[Any, Any, None]]) -> None:
    from arcentra_server import app as application  # noqa: PLC0415 - see above

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def settled(place: application.Ready) -> None:
        garbage.settle()
        core_threads.yield_to_loop()
        await ready(place)

    await application.run(settings, stop, settled)


async def _announce(ready: application.Ready) -> None:
    if ready.first_start:
        logs.say(
            f"First start. The administrator's token is in {ready.admin_token_file} (readable by you only).\n"
            f'  log in:         arcentra login --server {ready.grpc} --token "$(cat {ready.admin_token_file})"\n'
            f"  join an agent:  arcentra-agent run --server {ready.grpc} --registration-token "
            f'"$(arcentra-server registration-token create --data-dir {ready.admin_token_file.parent})"'
        )
    print(f"ready grpc={ready.grpc} http={ready.http}", flush=True)


async def _issue(
    settings: Config,
    kind: TokenKind,
    name: str,
    role: Role,
    *,
    labels: dict[str, str] | None = None,
    max_uses: int | None = None,
    ttl: str,
    needs_approval: bool = False,
) -> str:
    try:
        lifetime = timedelta(milliseconds=parse_duration(ttl))
    except ValueError as error:
        raise installation.InstallationError(f"--ttl: {error}") from error

    async def issue(dsn: str) -> str:
        async with Database(dsn, pool_size=4) as database:
            keys = await installation.load_keys(database)
            auth = AuthService(database, keys.tokens)
            return await auth.issue(
                kind, name, role, labels=labels, max_uses=max_uses, ttl=lifetime, needs_approval=needs_approval
            )

    dsn = _external_or_running(settings)
    if dsn is not None:
        return await issue(dsn)
    async with installation.database_url(settings) as (own, _):
        return await issue(own)


def _external_or_running(settings: Config) -> str | None:
    """Return the database of `--database-url`, or the one that a server runs on the data directory just now."""
    if settings.database.url is not None:
        return settings.database.url.get_secret_value()
    return embedded.running_dsn(settings.data_dir)


def _load(
    path: Path | None,
    data_dir: Path | None,
    database_url: str | None,
    grpc_listen: str | None = None,
    http_listen: str | None = None,
) -> Config:
    overrides = {
        "data_dir": data_dir,
        "database": {"url": database_url},
        "grpc": {"listen": grpc_listen},
        "http": {"listen": http_listen},
    }
    try:
        settings = load(path, overrides)
    except ConfigError as error:
        logs.say(f"arcentra-server: the configuration is wrong:\n{error}")
        raise typer.Exit(CONFIG_EXIT) from error
    logs.configure(settings.log_level, settings.log_format)
    return settings


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end; what a person can do something about becomes one clear message, not a traceback."""
    expected = (
        ArcentraError,
        embedded.EmbeddedPostgresError,
        installation.InstallationError,
        LocalAgentFailed,
        OSError,
    )
    try:
        return asyncio.run(work)
    except* expected as group:
        for error in _leaves(group):
            logs.say(f"arcentra-server: {error}")
    sys.exit(1)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
