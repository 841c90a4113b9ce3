"""`arcentra trigger`."""

from enum import StrEnum
from typing import Annotated

import typer

from arcentra_cli import actions, runtime
from arcentra_cli.commands.arguments import AnyPipeline, Limit, Page
from arcentra_cli.config import Settings
from arcentra_cli.options import command

app = typer.Typer(help="Triggers: what starts runs by itself, and what came of it.", no_args_is_help=True)


class Outcome(StrEnum):
    """What came of a tick or a delivery."""

    FIRED = "fired"
    FILTERED = "filtered"
    DUPLICATE = "duplicate"
    MISSED = "missed"
    REFUSED = "refused"


@command(app, "list")
def list_(settings: Settings, pipeline: AnyPipeline = None) -> None:
    """List schedules and event triggers, with when a schedule is due next."""
    runtime.run(actions.triggers.list_triggers(settings, pipeline))


@command(app, "events")
def events(
    settings: Settings,
    pipeline: AnyPipeline = None,
    outcome: Annotated[Outcome | None, typer.Option(help="Only those of which this came.")] = None,
    hook: Annotated[str, typer.Option(metavar="ID", help="Only deliveries to this hook.", show_default=False)] = "",
    page: Page = 1,
    limit: Limit = 20,
) -> None:
    """List what could have started a run, and why it did or did not; newest first."""
    runtime.run(actions.triggers.list_events(settings, pipeline, outcome, hook, page, limit))
