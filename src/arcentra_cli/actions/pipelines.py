"""`pipeline ...`."""

import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from grpc.aio import AioRpcError
from rich.text import Text

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.actions.lookup import find_pipeline
from arcentra_cli.actions.runs import follow_run, for_progress
from arcentra_cli.client import Client
from arcentra_cli.config import OutputFormat, Settings
from arcentra_cli.errors import CliError
from arcentra_cli.exit_codes import ExitCode
from arcentra_cli.output import emit
from arcentra_cli.render import definition, tables
from arcentra_cli.rpc_errors import explain
from arcentra_cli.session import endpoint_of, session
from arcentra_cli.terminal import one_line, visible

LARGEST_DOCUMENT = 1 << 20


async def apply(settings: Settings, files: Sequence[Path]) -> ExitCode:
    """Create or update the pipeline of each document; a faulty one does not keep the others from being applied."""
    documents = [(path, read_document(path)) for path in files]
    worst = ExitCode.SUCCESS
    async with session(settings) as client:
        for path, document in documents:
            try:
                await _apply(client, settings, document)
            except AioRpcError as error:
                cause = explain(error, endpoint_of(settings))
                if cause.exit_code is ExitCode.UNREACHABLE:
                    raise
                CliError(f"{path}: {cause.message}", cause.exit_code, cause.details).report()
                worst = cause.exit_code
    return worst


async def _apply(client: Client, settings: Settings, document: str) -> None:
    request = pipeline_pb2.ApplyPipelineRequest(document=document, namespace=settings.namespace or "")
    reply = await client.read(client.pipelines.ApplyPipeline, request)  # repeating it changes nothing
    emit(settings.output, reply, lambda: Text(applied(reply)))


def applied(reply: pipeline_pb2.ApplyPipelineResponse) -> str:
    """What an apply did, in one line."""
    done = "created" if reply.created else "changed" if reply.changed else "unchanged"
    return f"pipeline {reply.namespace}/{reply.name} {done} (version {reply.spec_version})"


def read_document(path: Path) -> str:
    """Return the text of a file; `-` is standard input.

    Raises:
        CliError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        if len(data) > LARGEST_DOCUMENT:
            raise CliError(f"{path}: larger than 1 MiB")
        return data.decode("utf-8")
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CliError(f"{path}: not UTF-8 at byte {error.start}") from error


async def list_pipelines(settings: Settings, page: int, limit: int) -> None:
    """Show a page of pipelines."""
    request = pipeline_pb2.ListPipelinesRequest(namespace=settings.namespace or "", page=page, page_size=limit)
    async with session(settings) as client:
        reply = await client.read(client.pipelines.ListPipelines, request)
    emit(settings.output, reply, lambda: tables.pipelines(reply))


async def show(settings: Settings, pipeline: str) -> None:
    """Show one pipeline."""
    async with session(settings) as client:
        detail = await find_pipeline(client, pipeline, settings.namespace)
    emit(settings.output, detail, lambda: definition.pipeline(detail))


async def delete(settings: Settings, pipeline: str) -> None:
    """Delete one pipeline."""
    async with session(settings) as client:
        detail = await find_pipeline(client, pipeline, settings.namespace)
        request = pipeline_pb2.DeletePipelineRequest(pipeline_id=detail.pipeline_id)
        reply = await client.write(client.pipelines.DeletePipeline, request)
    emit(settings.output, reply, lambda: Text(f"pipeline {detail.namespace}/{detail.name} deleted"))


async def trigger(
    settings: Settings,
    pipeline: str,
    *,
    branch: str,
    commit: str,
    variables: Mapping[str, str],
    request_id: str | None,
    follow: bool,
) -> ExitCode:
    """Start a run; with `follow`, show it to its end and answer its exit code."""
    async with session(settings) as client:
        detail = await find_pipeline(client, pipeline, settings.namespace)
        request = pipeline_pb2.TriggerPipelineRequest(
            pipeline_id=detail.pipeline_id,
            branch=branch,
            commit_sha=commit,
            variables=variables,
            request_id=request_id or secrets.token_hex(16),
        )
        # The key makes a repeated call answer with the run of the first.
        reply = await client.read(client.pipelines.TriggerPipeline, request)
        if follow or settings.output is OutputFormat.TABLE:  # else the reply as it is printed has them
            warn(reply.warnings)
        if follow:
            started = f"run {reply.run_id} of {detail.namespace}/{detail.name} started"
            print(visible(started), file=for_progress(settings), flush=True)
            return await follow_run(client, settings, reply.run_id, past_steps=())
    emit(settings.output, reply, lambda: Text(f"run {reply.run_id} started: arcentra run watch {reply.run_id}"))
    return ExitCode.SUCCESS


def warn(warnings: Iterable[str]) -> None:
    """Write what may keep a run from going on to stderr."""
    for warning in warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr, flush=True)
