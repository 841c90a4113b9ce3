"""`logs`: of one step run as its bytes are, of a run step by step."""

import sys
from collections.abc import Iterator

from grpc import StatusCode
from grpc.aio import AioRpcError

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.steprun.v1 import steprun_pb2
from arcentra_api.stream.v1 import stream_pb2
from arcentra_cli.actions.lookup import get_run
from arcentra_cli.actions.runs import LONGEST_OUTAGE_S, show_live
from arcentra_cli.client import Client
from arcentra_cli.config import Settings
from arcentra_cli.errors import CliError
from arcentra_cli.follow.lines import LogReader
from arcentra_cli.follow.reading import Link, read_through
from arcentra_cli.follow.screen import PlainScreen
from arcentra_cli.follow.story import Story
from arcentra_cli.follow.watch import LogFilter, read_log
from arcentra_cli.render import words
from arcentra_cli.session import session
from arcentra_cli.terminal import without_escapes


async def logs(settings: Settings, target: str, *, follow: bool, job: str, step: str) -> None:
    """Show the log of a step run, or of every wanted step of a run."""
    wanted = LogFilter(job, step)
    async with session(settings) as client:
        run = await _find_run(client, target)
        if run is None:
            await _step_log(client, target, follow=follow)
        elif follow and words.pipeline_status(run.status) not in words.TERMINAL:
            await show_live(client, settings, target, Story(), wanted)
        else:
            await _run_logs(client, run, wanted)


async def _find_run(client: Client, target: str) -> pipeline_pb2.PipelineRunDetail | None:
    """The run `target`, or None when it is a step run.

    Raises:
        CliError: it is neither.
    """
    try:
        return await get_run(client, target)
    except AioRpcError as error:
        if error.code() is not StatusCode.NOT_FOUND:
            raise
    try:
        await client.read(client.step_runs.GetStepRun, steprun_pb2.GetStepRunRequest(step_run_id=target))
    except AioRpcError as error:
        if error.code() is not StatusCode.NOT_FOUND:
            raise
        raise CliError(f"no run and no step run has the id {target}") from None
    return None


async def _step_log(client: Client, step_run_id: str, *, follow: bool) -> None:
    """Write the log of one step run: its very bytes to a program, whole harmless lines to a terminal."""
    link = Link(lambda text: print(text, file=sys.stderr, flush=True), LONGEST_OUTAGE_S)
    reader = LogReader()
    if sys.stdout.isatty():
        async for lines in read_log(client, link, step_run_id, reader, follow=follow):
            _print_lines(lines)
        _print_lines(reader.end())
        return
    async for message in read_through(
        client.channel,
        link,
        lambda: client.stream(
            client.streams.StreamStepRunLogs,
            stream_pb2.StreamStepRunLogsRequest(step_run_id=step_run_id, offset=reader.offset, follow=follow),
        ),
    ):
        sys.stdout.buffer.write(reader.take_raw(message))
        sys.stdout.buffer.flush()


def _print_lines(lines: list[str]) -> None:
    for line in lines:
        shown = without_escapes(line, keep_styles=True)
        print(f"{shown}\x1b[0m" if "\x1b" in shown else shown)


async def _run_logs(client: Client, run: pipeline_pb2.PipelineRunDetail, wanted: LogFilter) -> None:
    screen = PlainScreen(sys.stdout)
    link = Link(screen.notice, LONGEST_OUTAGE_S)
    steps = [(label, step_run_id) for label, step_run_id in started_steps(run) if wanted.wants(label)]
    is_empty = True
    for label, step_run_id in steps:
        reader = LogReader()
        async for lines in read_log(client, link, step_run_id, reader, follow=False):
            screen.log(label, lines)
        screen.log(label, reader.end())
        is_empty = is_empty and not reader.offset
    if is_empty:
        screen.notice(_no_logs(run, wanted, len(steps)))


def _no_logs(run: pipeline_pb2.PipelineRunDetail, wanted: LogFilter, steps: int) -> str:
    """What to say of a run of which there is nothing to show, `steps` of it having started."""
    status = words.pipeline_status(run.status).lower()
    if steps:
        return f"run {run.run_id} has no logs: its steps wrote nothing (the run is {status})"
    if wanted == LogFilter():
        return f"run {run.run_id} has no logs: no step of it has started (the run is {status})"
    return f"run {run.run_id} has no such logs: no step that was asked for has started (the run is {status})"


def started_steps(run: pipeline_pb2.PipelineRunDetail) -> Iterator[tuple[str, str]]:
    """Label and id of each step run that can have a log, in the order of the run."""
    for job in run.job_runs:
        for step in job.step_runs:
            if step.start_time:
                attempt = f"#{step.attempt}" if step.attempt > 1 else ""
                yield f"{job.job_name}/{step.step_name}{attempt}", step.step_run_id
