"""`pipeline validate` and `pipeline schema`."""

from collections.abc import Sequence
from pathlib import Path

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.actions.pipelines import read_document
from arcentra_cli.config import OutputFormat, Settings
from arcentra_cli.exit_codes import ExitCode
from arcentra_cli.output import serialise
from arcentra_cli.render import problems
from arcentra_cli.session import session
from arcentra_cli.terminal import visible


async def validate(settings: Settings, files: Sequence[Path]) -> ExitCode:
    """Say what is wrong, or may be, with each document."""
    documents = [(path, read_document(path)) for path in files]
    worst = ExitCode.SUCCESS
    async with session(settings) as client:
        for path, document in documents:
            request = pipeline_pb2.ValidatePipelineRequest(document=document, namespace=settings.namespace or "")
            reply = await client.read(client.pipelines.ValidatePipeline, request)
            if settings.output is OutputFormat.TABLE:
                # Not a table: a line that is too long for the screen is still one line, as editors want it.
                print("\n".join(visible(line) for line in problems.lines(str(path), reply)), flush=True)
            else:
                print(serialise(settings.output, reply), flush=True)
            if not reply.valid:
                worst = ExitCode.USAGE
    return worst


async def schema(settings: Settings) -> None:
    """Print the JSON Schema, whatever the output format: it is JSON."""
    async with session(settings) as client:
        reply = await client.read(client.pipelines.GetPipelineSchema, pipeline_pb2.GetPipelineSchemaRequest())
    print(reply.json_schema.rstrip("\n"))
