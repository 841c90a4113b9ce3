"""`arcentra approval`."""

from enum import StrEnum
from typing import Annotated

import typer

from arcentra_cli import actions, runtime
from arcentra_cli.commands.arguments import Limit, Page, PipelineOption, RunOption
from arcentra_cli.config import Settings
from arcentra_cli.options import command

app = typer.Typer(help="Approvals: list, show, approve, reject.", no_args_is_help=True)

ApprovalId = Annotated[
    str | None,
    typer.Argument(
        metavar="ID", help="Id of the gate, or its beginning. With --run not needed where only one is pending."
    ),
]
OfRun = Annotated[str, typer.Option("--run", metavar="RUN", help="Run the gate belongs to.", show_default=False)]
Comment = Annotated[str, typer.Option(help="Why; shown with the vote.", show_default=False)]


class State(StrEnum):
    """Which gates are listed."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    ALL = "all"


@command(app, "list")
def list_(
    settings: Settings,
    run: RunOption = "",
    pipeline: PipelineOption = None,
    state: Annotated[State, typer.Option(help="Only in this state.")] = State.PENDING,
    page: Page = 1,
    limit: Limit = 20,
) -> None:
    """List gates, newest first: those that wait for a decision unless --state says otherwise.

    Example: arcentra approval list --pipeline shop/deploy --state all
    """
    runtime.run(actions.approvals.list_approvals(settings, run, pipeline, state, page, limit))


@command(app, "show")
def show(settings: Settings, approval: ApprovalId = None, run: OfRun = "") -> None:
    """Show a gate: what it is bound to, who may decide it, and who voted how.

    Example: arcentra approval show 01a20c8d
    """
    runtime.run(actions.approvals.show(settings, approval, run))


@command(app, "approve")
def approve(settings: Settings, approval: ApprovalId = None, run: OfRun = "", comment: Comment = "") -> None:
    """Vote for a gate, for the very definition and commit that it shows.

    Example: arcentra approval approve 01a20c8d --comment "tested on staging"
    """
    runtime.run(actions.approvals.decide(settings, approval, run, approve=True, comment=comment))


@command(app, "reject")
def reject(settings: Settings, approval: ApprovalId = None, run: OfRun = "", comment: Comment = "") -> None:
    """Vote against a gate. One vote against decides it: the run fails, nothing behind the gate starts.

    Example: arcentra approval reject --run 01a20c8d-8ef0-7bef-9908-7f8916e7bda8 --comment "wrong branch"
    """
    runtime.run(actions.approvals.decide(settings, approval, run, approve=False, comment=comment))
