"""`arcentra pipeline`."""

from pathlib import Path
from typing import Annotated

import typer

from arcentra_cli import actions, runtime
from arcentra_cli.commands.arguments import Limit, Page, PipelineName
from arcentra_cli.config import Settings
from arcentra_cli.options import command

app = typer.Typer(help="Pipelines: apply, validate, list, show, trigger, delete.", no_args_is_help=True)


@command(app, "apply")
def apply(
    settings: Settings,
    files: Annotated[
        list[Path],
        typer.Option("--file", "-f", metavar="FILE", help="Document, YAML or JSON; - is standard input. Repeatable."),
    ],
) -> None:
    """Create or update pipelines from documents."""
    runtime.run(actions.pipelines.apply(settings, files))


@command(app, "validate")
def validate(
    settings: Settings,
    files: Annotated[
        list[Path],
        typer.Option("--file", "-f", metavar="FILE", help="Document, YAML or JSON; - is standard input. Repeatable."),
    ],
) -> None:
    """Check documents as apply does, without storing anything. Exits with 2 when one has a fault."""
    runtime.run(actions.documents.validate(settings, files))


@command(app, "schema")
def schema(settings: Settings) -> None:
    """Print the JSON Schema of documents, for editors."""
    runtime.run(actions.documents.schema(settings))


@command(app, "list")
def list_(settings: Settings, page: Page = 1, limit: Limit = 20) -> None:
    """List pipelines, of every namespace unless -n names one."""
    runtime.run(actions.pipelines.list_pipelines(settings, page, limit))


@command(app, "show")
def show(settings: Settings, pipeline: PipelineName) -> None:
    """Show a pipeline."""
    runtime.run(actions.pipelines.show(settings, pipeline))


@command(app, "delete")
def delete(settings: Settings, pipeline: PipelineName) -> None:
    """Delete a pipeline. Its runs stay; one that is running keeps it from being deleted."""
    runtime.run(actions.pipelines.delete(settings, pipeline))


@command(app, "trigger")
def trigger(
    settings: Settings,
    pipeline: PipelineName,
    *,
    branch: Annotated[str, typer.Option(help="Branch to run on.", show_default=False)] = "",
    commit: Annotated[str, typer.Option(metavar="SHA", help="Commit to run on.", show_default=False)] = "",
    var: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Variable of the run. Repeatable.")] = None,
    request_id: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Key of this trigger: the same key starts one run only. Random by default."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the run live, and exit with its code.", show_default=False)
    ] = False,
) -> None:
    """Start a run of a pipeline."""
    runtime.run(
        actions.pipelines.trigger(
            settings,
            pipeline,
            branch=branch,
            commit=commit,
            variables=parse_variables(var or []),
            request_id=request_id,
            follow=follow,
        )
    )


def parse_variables(texts: list[str]) -> dict[str, str]:
    """Read `KEY=VALUE` texts; the last of a repeated key holds.

    Raises:
        typer.BadParameter: a text has no `=` or no key.
    """
    variables = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not (key and separator):
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--var")
        variables[key] = value
    return variables
