"""`arcentra step`."""

import typer

from arcentra_cli import actions, runtime
from arcentra_cli.commands.arguments import Reason, StepRunId
from arcentra_cli.config import Settings
from arcentra_cli.options import command

app = typer.Typer(help="Step runs: show, explain, retry, cancel.", no_args_is_help=True)


@command(app, "show")
def show(settings: Settings, step_run: StepRunId) -> None:
    """Show a step run."""
    runtime.run(actions.steps.show(settings, step_run))


@command(app, "explain")
def explain(settings: Settings, step_run: StepRunId) -> None:
    """Say why a step run waits: its place in the queue, and for every agent why it does or does not take it."""
    runtime.run(actions.steps.explain(settings, step_run))


@command(app, "retry")
def retry(settings: Settings, step_run: StepRunId) -> None:
    """Run a step again, as a new step run beside the old one."""
    runtime.run(actions.steps.retry(settings, step_run))


@command(app, "cancel")
def cancel(settings: Settings, step_run: StepRunId, reason: Reason = "") -> None:
    """Cancel a step run."""
    runtime.run(actions.steps.cancel(settings, step_run, reason))
