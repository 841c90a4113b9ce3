"""Arguments and options that several commands share."""

from typing import Annotated

import typer

PipelineName = Annotated[str, typer.Argument(metavar="PIPELINE", help="NAME, NAMESPACE/NAME or id.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.")]
RunOption = Annotated[str, typer.Option("--run", metavar="RUN", help="Only of this run.", show_default=False)]
PipelineOption = Annotated[
    str | None,
    typer.Option("--pipeline", metavar="PIPELINE", help="Only of this pipeline: NAME, NAMESPACE/NAME or id."),
]
AnyPipeline = Annotated[
    str | None, typer.Argument(metavar="PIPELINE", help="Only of this pipeline: NAME, NAMESPACE/NAME or id.")
]
StepRunId = Annotated[str, typer.Argument(metavar="STEP_RUN", help="Id of the step run.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the run.", show_default=False)]
Page = Annotated[int, typer.Option(min=1, help="Page, from 1.")]
Limit = Annotated[int, typer.Option(min=1, max=100, help="Rows a page.")]
