"""The command `arcentra-agent`."""

import asyncio
import os
import platform
import sys
from pathlib import Path
from typing import Annotated

import typer

from arcentra_agent.agent import Agent, CannotRunError
from arcentra_agent.config import (
    AgentConfig,
    ConfigError,
    check_listen,
    check_server,
    default_work_dir,
    parse_size,
    parse_words,
    read_labels,
)
from arcentra_agent.log_setup import configure_logging

_CORES = os.cpu_count() or 1

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def agent() -> None:
    """Run step runs of an Arcentra control plane on this host."""


def _env(name: str) -> str:
    return f"ARCENTRA_AGENT_{name}"


ContainerRuntime = Annotated[
    str,
    typer.Option(
        envvar=_env("CONTAINER_RUNTIME"),
        help="Command line that runs the images of steps.",
        show_default="podman or docker, whichever is there",
    ),
]
ContainerOptions = Annotated[
    str, typer.Option(envvar=_env("CONTAINER_OPTIONS"), help="More options for its command `run`.")
]
SpoolLimit = Annotated[
    str, typer.Option(envvar=_env("SPOOL_LIMIT"), help="Most that logs may take on the disk; 0 for no limit.")
]
HealthListen = Annotated[
    str, typer.Option(envvar=_env("HEALTH_LISTEN"), help="Where to serve /healthz and /status, HOST:PORT.")
]
Once = Annotated[
    bool, typer.Option("--once", envvar=_env("ONCE"), help="Take one job, then end; the exit code tells its end.")
]


@app.command()
def run(
    server: Annotated[str, typer.Option(envvar=_env("SERVER"), help="Address of the control plane, HOST:PORT.")],
    registration_token: Annotated[
        str, typer.Option(envvar=_env("REGISTRATION_TOKEN"), help="Needed once, to join.", show_default=False)
    ] = "",
    labels: Annotated[
        str, typer.Option(envvar=_env("LABELS"), help="What this agent has, for selectors: key=value,...")
    ] = "",
    labels_file: Annotated[
        Path | None, typer.Option(envvar=_env("LABELS_FILE"), help="More labels, a line each; SIGHUP reads them again.")
    ] = None,
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
    container_runtime: ContainerRuntime = "auto",
    container_options: ContainerOptions = "",
    spool_limit: SpoolLimit = "10GiB",
    health_listen: HealthListen = "",
    once: Once = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Join the control plane and run what it dispatches, until told to stop."""
    configure_logging(verbose=verbose)
    try:
        config = AgentConfig(
            server=check_server(server),
            work_dir=(work_dir or default_work_dir()).expanduser().absolute(),
            name=name or platform.node() or "agent",
            # More would be leased to it than it takes: steps of other jobs, which wait meanwhile.
            capacity=1 if once else capacity,
            labels=read_labels(labels, labels_file),
            registration_token=registration_token,
            kill_grace=kill_grace,
            drain_timeout=drain_timeout,
            pass_env=tuple(filter(None, (part.strip() for part in pass_env.split(",")))),
            label_option=labels,
            label_file=labels_file,
            container_runtime=()
            if container_runtime == "auto"
            else parse_words(container_runtime, "--container-runtime"),
            container_options=parse_words(container_options, "--container-options"),
            spool_limit=parse_size(spool_limit),
            health_listen=check_listen(health_listen),
            once=once,
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
