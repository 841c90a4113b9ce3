"""`arcentra run`."""

from typing import Annotated

import typer

from arcentra_cli import actions, runtime
from arcentra_cli.commands.arguments import AnyPipeline, Limit, Page, PipelineOption, Reason, RunId
from arcentra_cli.config import Settings
from arcentra_cli.options import command

app = typer.Typer(help="Runs: list, show, explain, watch, retry, stop, pause, resume.", no_args_is_help=True)


@command(app, "list")
def list_(
    settings: Settings,
    pipeline: AnyPipeline = None,
    *,
    named: PipelineOption = None,
    status: Annotated[str | None, typer.Option(help="Only in this status, as `running` or `failed`.")] = None,
    page: Page = 1,
    limit: Limit = 20,
) -> None:
    """List runs, newest first; the pipeline may be named either way."""
    if pipeline and named and pipeline != named:
        raise typer.BadParameter(f"either {pipeline!r} or {named!r}", param_hint="--pipeline")
    runtime.run(actions.runs.list_runs(settings, pipeline or named, status, page, limit))


@command(app, "show")
def show(settings: Settings, run: RunId) -> None:
    """Show a run with its jobs and steps."""
    runtime.run(actions.runs.show(settings, run))


@command(app, "explain")
def explain(settings: Settings, run: RunId) -> None:
    """Say of each step of a run that waits why it does; `arcentra step explain` says more of one."""
    runtime.run(actions.runs.explain(settings, run))


@command(app, "watch")
def watch(settings: Settings, run: RunId) -> None:
    """Follow a run with its live logs, and exit with its code. Ctrl-C detaches; the run goes on."""
    runtime.run(actions.runs.watch(settings, run))


@command(app, "retry")
def retry(
    settings: Settings,
    run: RunId,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every job.", show_default=False)] = False,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Only jobs that did not end well, and those skipped because of them (default)."),
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the run live, and exit with its code.", show_default=False)
    ] = False,
) -> None:
    """Run again what a run that has ended left undone: new attempts, of the same definition, variables and commit.

    Example: arcentra run retry 01a20c8d-8ef0-7bef-9908-7f8916e7bda8 --failed --follow
    """
    if everything and failed:
        raise typer.BadParameter("either --all or --failed", param_hint="--all")
    runtime.run(actions.runs.retry(settings, run, everything=everything, follow=follow))


@command(app, "stop")
def stop(settings: Settings, run: RunId, reason: Reason = "") -> None:
    """Cancel everything of a run that has not ended. This is final."""
    runtime.run(actions.runs.stop(settings, run, reason))


@command(app, "pause")
def pause(settings: Settings, run: RunId, reason: Reason = "") -> None:
    """Start nothing new in a run; running steps finish."""
    runtime.run(actions.runs.pause(settings, run, reason))


@command(app, "resume")
def resume(settings: Settings, run: RunId, reason: Reason = "") -> None:
    """Go on with a paused run."""
    runtime.run(actions.runs.resume(settings, run, reason))
