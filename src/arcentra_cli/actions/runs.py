"""`run ...`, and following a run."""

import asyncio
import sys
import time
from collections.abc import Iterable
from typing import TextIO

from rich.text import Text

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_cli import exit_codes
from arcentra_cli.actions.lookup import agent_names, get_run, pipeline_id_of
from arcentra_cli.client import Client
from arcentra_cli.config import OutputFormat, Settings
from arcentra_cli.errors import CliError
from arcentra_cli.exit_codes import ExitCode
from arcentra_cli.follow.reading import Link
from arcentra_cli.follow.screen import LiveScreen, PlainScreen, Screen
from arcentra_cli.follow.story import Story
from arcentra_cli.follow.watch import LogFilter, Watch
from arcentra_cli.output import console, emit, emit_each, for_a_person
from arcentra_cli.render import tables, waiting, words
from arcentra_cli.render.explain import run_explanation
from arcentra_cli.render.run import run_report
from arcentra_cli.session import session
from arcentra_cli.terminal import visible

# How long a followed run waits for a server that went away.
LONGEST_OUTAGE_S = 600.0
MOST_EXPLAINED = 50


async def list_runs(settings: Settings, pipeline: str | None, status: str | None, page: int, limit: int) -> None:
    """Show a page of runs, newest first."""
    async with session(settings) as client:
        request = pipeline_pb2.ListPipelineRunsRequest(
            pipeline_id=await pipeline_id_of(client, pipeline, settings.namespace),
            namespace=settings.namespace or "",
            status=_status(status) if status else pipeline_pb2.PIPELINE_STATUS_UNSPECIFIED,
            page=page,
            page_size=limit,
        )
        reply = await client.read(client.pipelines.ListPipelineRuns, request)
    emit(settings.output, reply, lambda: tables.runs(reply, time.time()))


def _status(word: str) -> pipeline_pb2.PipelineStatus.ValueType:
    try:
        return pipeline_pb2.PipelineStatus.Value(f"PIPELINE_STATUS_{word.upper()}")
    except ValueError:
        known = ", ".join(sorted(name.removeprefix("PIPELINE_STATUS_").lower() for name in _known_statuses()))
        raise CliError(f"unknown status {word!r}: one of {known}") from None


def _known_statuses() -> Iterable[str]:
    return (name for name, number in pipeline_pb2.PipelineStatus.items() if number)


async def show(settings: Settings, run_id: str) -> None:
    """Show one run with its steps."""
    async with session(settings) as client:
        run = await get_run(client, run_id)
        agents = await agent_names(client) if settings.output is OutputFormat.TABLE else {}
    emit(settings.output, run, lambda: run_report(run, agents, time.time()))


async def explain(settings: Settings, run_id: str) -> None:
    """Show why each step of a run waits that could be next."""
    async with session(settings) as client:
        run = await get_run(client, run_id)
        waits = tuple(waiting.steps(run))
        requests = [
            steprun_pb2.ExplainStepRunRequest(step_run_id=step.step_run_id) for _, step in waits[:MOST_EXPLAINED]
        ]
        replies = [await client.read(client.step_runs.ExplainStepRun, request) for request in requests]
    emit_each(settings.output, replies, lambda: run_explanation(run, waits, replies, time.time()))


async def watch(settings: Settings, run_id: str) -> ExitCode:
    """Follow a run to its end; answers its exit code."""
    async with session(settings) as client:
        past = ended_steps(await get_run(client, run_id))
        return await follow_run(client, settings, run_id, past_steps=past)


async def retry(settings: Settings, run_id: str, *, everything: bool, follow: bool) -> ExitCode:
    """Run again what a run that has ended left undone, or all of it; with `follow`, as `watch`."""
    scope = pipeline_pb2.RETRY_SCOPE_ALL if everything else pipeline_pb2.RETRY_SCOPE_FAILED
    async with session(settings) as client:
        before = await get_run(client, run_id)
        request = pipeline_pb2.RetryPipelineRunRequest(run_id=run_id, scope=scope)
        reply = await client.write(client.pipelines.RetryPipelineRun, request)
        done = retried(before, reply)
        if follow:
            print(visible(done), file=for_progress(settings), flush=True)
            return await follow_run(client, settings, run_id, past_steps=ended_steps(before))
    emit(settings.output, reply, lambda: Text(f"{done}: arcentra run watch {run_id}"))
    return ExitCode.SUCCESS


def retried(before: pipeline_pb2.PipelineRunDetail, reply: pipeline_pb2.RetryPipelineRunResponse) -> str:
    """What a retry did, in one line."""
    again = [job.job_name for job in before.job_runs if job.job_run_id in reply.job_run_ids]
    return f"run {before.run_id} goes on, again: {waiting.names(again)}"


def ended_steps(run: pipeline_pb2.PipelineRunDetail) -> list[str]:
    """The step runs of a run that have ended: their logs are of the past."""
    return [
        step.step_run_id
        for job in run.job_runs
        for step in job.step_runs
        if words.pipeline_status(step.status) in words.TERMINAL
    ]


def for_progress(settings: Settings) -> TextIO:
    """Where a followed run is told of: stdout, unless that is for the run as JSON or YAML."""
    return sys.stdout if settings.output is OutputFormat.TABLE else sys.stderr


async def follow_run(client: Client, settings: Settings, run_id: str, past_steps: Iterable[str]) -> ExitCode:
    """Show a run live, then its report; answers its exit code.

    Raises:
        CliError: Ctrl-C ended the following; the run goes on.
        grpc.aio.AioRpcError: perhaps in a group; the server refused a call, or stayed away too long.
    """
    try:
        agents = await agent_names(client)
        await show_live(client, settings, run_id, Story(past_steps, agents))
        run = await get_run(client, run_id)
    except asyncio.CancelledError:
        raise CliError(
            f"detached, the run goes on: watch it again with `arcentra run watch {run_id}`",
            ExitCode.INTERRUPTED,
            prefix="",
        ) from None
    agents |= await agent_names(client)
    emit(settings.output, run, lambda: run_report(run, agents, time.time()))
    return exit_codes.of_run(words.pipeline_status(run.status))


async def show_live(
    client: Client, settings: Settings, run_id: str, story: Story, logs: LogFilter | None = None
) -> None:
    """Show a run live until it has ended; with `logs` only those logs and no changes of state."""
    screen = _screen(settings, story, states=logs is None)
    link = Link(screen.notice, LONGEST_OUTAGE_S)
    with screen:
        watch = Watch(client, run_id, story, screen=screen, link=link, logs=logs or LogFilter(), explain=logs is None)
        await watch.follow()


def _screen(settings: Settings, story: Story, *, states: bool) -> Screen:
    """A live screen for a person; plain lines for a program, on stderr when stdout is for the run as JSON or YAML."""
    if settings.output is not OutputFormat.TABLE:
        return PlainScreen(sys.stderr, states=states)
    target = console()
    if for_a_person() and not target.is_dumb_terminal:
        return LiveScreen(target, lambda: story.progress, states=states)
    return PlainScreen(sys.stdout, states=states)


async def stop(settings: Settings, run_id: str, reason: str) -> None:
    """Cancel everything of a run that has not ended."""
    async with session(settings) as client:
        run = await get_run(client, run_id)
        request = pipeline_pb2.StopPipelineRequest(pipeline_id=run.pipeline_id, run_id=run_id, reason=reason)
        reply = await client.write(client.pipelines.StopPipeline, request)
    emit(settings.output, reply, lambda: Text(f"run {run_id} stopped"))


async def pause(settings: Settings, run_id: str, reason: str) -> None:
    """Start nothing new in a run."""
    async with session(settings) as client:
        run = await get_run(client, run_id)
        request = pipeline_pb2.PausePipelineRequest(pipeline_id=run.pipeline_id, run_id=run_id, reason=reason)
        reply = await client.write(client.pipelines.PausePipeline, request)
    emit(settings.output, reply, lambda: Text(f"run {run_id} paused"))


async def resume(settings: Settings, run_id: str, reason: str) -> None:
    """Go on with a paused run."""
    async with session(settings) as client:
        run = await get_run(client, run_id)
        request = pipeline_pb2.ResumePipelineRequest(pipeline_id=run.pipeline_id, run_id=run_id, reason=reason)
        reply = await client.write(client.pipelines.ResumePipeline, request)
    emit(settings.output, reply, lambda: Text(f"run {run_id} goes on"))
