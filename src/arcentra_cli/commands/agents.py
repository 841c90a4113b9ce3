"""`arcentra agent`."""

from typing import Annotated

import typer

from arcentra_cli import actions, runtime
from arcentra_cli.config import Settings
from arcentra_cli.options import command

app = typer.Typer(
    help="Agents: list, show, approve, drain, resume, disable, enable, label, remove.", no_args_is_help=True
)

AgentName = Annotated[str, typer.Argument(metavar="AGENT", help="Name or id.")]
Why = Annotated[str, typer.Option("--reason", help="Why; shown to whoever looks at the agent.", show_default=False)]


@command(app, "list")
def list_(settings: Settings) -> None:
    """List the registered agents."""
    runtime.run(actions.agents.list_agents(settings))


@command(app, "show")
def show(settings: Settings, agent: AgentName) -> None:
    """Show an agent: its state, labels and where they come from, load, and last contact."""
    runtime.run(actions.agents.show(settings, agent))


@command(app, "approve")
def approve(settings: Settings, agent: AgentName) -> None:
    """Let an agent that waits for approval take step runs."""
    runtime.run(actions.agents.approve(settings, agent))


@command(app, "drain")
def drain(settings: Settings, agent: AgentName, reason: Why = "") -> None:
    """Let an agent finish what it runs and take nothing new, until `resume`."""
    runtime.run(actions.agents.drain(settings, agent, reason))


@command(app, "resume")
def resume(settings: Settings, agent: AgentName) -> None:
    """Let a drained agent take step runs again."""
    runtime.run(actions.agents.resume(settings, agent))


@command(app, "disable")
def disable(settings: Settings, agent: AgentName, reason: Why = "") -> None:
    """Keep an agent from everything, until `enable`. What it runs goes on."""
    runtime.run(actions.agents.disable(settings, agent, reason))


@command(app, "enable")
def enable(settings: Settings, agent: AgentName) -> None:
    """Let a disabled agent take step runs again."""
    runtime.run(actions.agents.enable(settings, agent))


@command(app, "label")
def label(
    settings: Settings,
    agent: AgentName,
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="LABEL...", help="KEY=VALUE to set, KEY- to remove.")
    ] = None,
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Remove all others that the server gave.")] = False,
) -> None:
    """Give an agent labels. They win over those that it claims."""
    runtime.run(actions.agents.label(settings, agent, changes or [], replace=replace))


@command(app, "remove")
def remove(settings: Settings, agent: AgentName, reason: Why = "") -> None:
    """Remove an agent for good: its credential ends, and what it runs is lost."""
    runtime.run(actions.agents.remove(settings, agent, reason))
