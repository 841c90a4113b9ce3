"""The command `arcentra-agent`."""

import asyncio
import os
import platform
import sys
from pathlib import Path
from typing import Annotated

import typer

from arcentra_agent.agent import Agent, CannotRunError
from arcentra_agent.config import AgentConfig, ConfigError, check_server, default_work_dir, parse_labels
from arcentra_agent.log_setup import configure_logging

_CORES = os.cpu_count() or 1

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def agent() -> None:
    """Run step runs of an Arcentra control plane on this host."""


def _env(name: str) -> str:
    return f"ARCENTRA_AGENT_{name}"


@app.command()
def run(
    server: Annotated[str, typer.Option(envvar=_env("SERVER"), help="Address of the control plane, HOST:PORT.")],
    registration_token: Annotated[
        str, typer.Option(envvar=_env("REGISTRATION_TOKEN"), help="Needed once, to join.", show_default=False)
    ] = "",
    labels: Annotated[
        str, typer.Option(envvar=_env("LABELS"), help="What this agent has, for selectors: key=value,...")
    ] = "",
    capacity: Annotated[
        int,
        typer.Option(
            envvar=_env("CAPACITY"), min=1, max=1000, help="Step runs at a time.", show_default="the number of cores"
        ),
    ] = _CORES,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            envvar=_env("WORK_DIR"), help="State, workspaces and logs.", show_default="~/.local/share/arcentra-agent"
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(envvar=_env("NAME"), help="Name for people.", show_default="the name of the host")
    ] = "",
    kill_grace: Annotated[
        float, typer.Option(envvar=_env("KILL_GRACE"), min=0, help="Seconds between TERM and KILL.")
    ] = 10.0,
    drain_timeout: Annotated[
        float, typer.Option(envvar=_env("DRAIN_TIMEOUT"), min=0, help="Seconds a stop waits for running steps.")
    ] = 60.0,
    pass_env: Annotated[
        str, typer.Option(envvar=_env("PASS_ENV"), help="Variables of the agent that steps get: NAME,PREFIX_*,...")
    ] = "",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Join the control plane and run what it dispatches, until told to stop."""
    configure_logging(verbose=verbose)
    try:
        config = AgentConfig(
            server=check_server(server),
            work_dir=(work_dir or default_work_dir()).expanduser().absolute(),
            name=name or platform.node() or "agent",
            capacity=capacity,
            labels=parse_labels(labels),
            registration_token=registration_token,
            kill_grace=kill_grace,
            drain_timeout=drain_timeout,
            pass_env=tuple(filter(None, (part.strip() for part in pass_env.split(",")))),
        )
        code = asyncio.run(_run(config))
    except (ConfigError, CannotRunError) as error:
        typer.echo(f"arcentra-agent: {error}", err=True)
        code = 2 if isinstance(error, ConfigError) else 1
    sys.exit(code)


async def _run(config: AgentConfig) -> int:
    return await Agent(config).run()


def main() -> None:
    """Entry point of the console script."""
    app()
