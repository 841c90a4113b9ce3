"""Follows one run: three status streams and a log stream a step, until the run has ended and its logs are shown."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from grpc.aio import AioRpcError, UnaryStreamMultiCallable

from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_api.stream.v1 import stream_pb2
from arcentra_cli.client import Client
from arcentra_cli.follow.lines import LogReader
from arcentra_cli.follow.reading import Link, read_through
from arcentra_cli.follow.screen import Screen
from arcentra_cli.follow.story import Action, Look, OpenLog, Story

TICK_S = 0.25
# How long a log may stay silent after the run has ended before it is given up as incomplete.
LOG_SILENCE_S = 15.0
# What waits no longer than this is not looked up.
LOOK_GRACE_S = 0.25
LOOK_AGAIN_S = 2.0
# Of a run so large that looking takes long, looking takes at most one part in so many of the time.
LOOK_SHARE = 10


class _Status(Protocol):
    """What the three status messages have in common."""

    @property
    def event_id(self) -> str: ...
    @property
    def previous_status(self) -> int: ...


Req = TypeVar("Req")
StatusT = TypeVar("StatusT", bound=_Status)


@dataclass(slots=True)
class _Cursor:
    """The last change that was read of one stream."""

    event_id: str = ""


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which logs are wanted; an empty name means any."""

    job: str = ""
    step: str = ""

    def wants(self, label: str) -> bool:
        """Whether the log shown under `job/step` or `job/step#attempt` is wanted."""
        job, _, step = label.partition("#")[0].partition("/")
        return self.job in {"", job} and self.step in {"", step}


class Watch:
    """Follows one run."""

    def __init__(
        self, client: Client, run_id: str, story: Story, *, screen: Screen, link: Link, logs: LogFilter, explain: bool
    ) -> None:
        """Prepare; with `explain` the run is looked up when something of it waits, to say for what."""
        self._client = client
        self._run_id = run_id
        self._story = story
        self._screen = screen
        self._link = link
        self._filter = logs
        self._open_logs: dict[str, asyncio.Task[None]] = {}
        self._labels: dict[str, str] = {}
        self._batches_read = 0
        self._explain = explain
        self._look_wanted = asyncio.Event()

    async def follow(self) -> None:
        """Follow the run to its end.

        Raises:
            grpc.aio.AioRpcError: in a group; the server refused a stream, or stayed away too long.
        """
        async with asyncio.TaskGroup() as tasks:
            ticking = tasks.create_task(self._tick())
            async with asyncio.TaskGroup() as logs:
                looking = tasks.create_task(self._look(logs))
                await self._follow_states(logs)
                looking.cancel()
                await self._await_logs()
            self._perform(self._story.closing(), tasks)
            ticking.cancel()

    async def _follow_states(self, logs: asyncio.TaskGroup) -> None:
        streams, story, run_id = self._client.streams, self._story, self._run_id
        async with asyncio.TaskGroup() as states:
            states.create_task(
                self._read(
                    streams.StreamPipelineStatus,
                    lambda after: stream_pb2.StreamPipelineStatusRequest(
                        pipeline_run_ids=[run_id], after_event_id=after
                    ),
                    lambda message: self._perform(story.on_run(message), logs),
                )
            )
            states.create_task(
                self._read(
                    streams.StreamJobStatus,
                    lambda after: stream_pb2.StreamJobStatusRequest(pipeline_run_id=run_id, after_event_id=after),
                    lambda message: self._perform(story.on_job(message), logs),
                )
            )
            states.create_task(
                self._read(
                    streams.StreamStepRunStatus,
                    lambda after: stream_pb2.StreamStepRunStatusRequest(pipeline_run_id=run_id, after_event_id=after),
                    lambda message: self._perform(story.on_step(message), logs),
                )
            )

    async def _read(
        self,
        method: UnaryStreamMultiCallable[Req, StatusT],
        request: Callable[[str], Req],
        take: Callable[[StatusT], None],
    ) -> None:
        """Read a status stream to its end.

        Messages of the current state (no previous status) share one cursor. A stream cut among them is opened anew:
        resuming at that cursor would skip the rest of the state, while the story ignores what it has heard before.
        """
        cursor = _Cursor()
        async for message in read_through(
            self._client.channel, self._link, lambda: self._client.stream(method, request(cursor.event_id))
        ):
            if message.previous_status:
                cursor.event_id = message.event_id
            take(message)

    def _perform(self, actions: Iterable[Action], logs: asyncio.TaskGroup) -> None:
        for action in actions:
            if isinstance(action, Look):
                self._look_wanted.set()
            elif not isinstance(action, OpenLog):
                self._screen.say(action)
            elif self._filter.wants(action.label):
                self._labels[action.step_run_id] = action.label
                self._open_logs[action.step_run_id] = logs.create_task(
                    self._follow_log(action.step_run_id, action.label, logs)
                )
            else:
                self._perform(self._story.on_log_end(action.step_run_id), logs)

    async def _follow_log(self, step_run_id: str, label: str, logs: asyncio.TaskGroup) -> None:
        reader = LogReader()
        try:
            async for lines in read_log(self._client, self._link, step_run_id, reader, follow=True):
                self._batches_read += 1
                self._screen.log(label, lines)
        finally:
            self._screen.log(label, reader.end())
        del self._open_logs[step_run_id]
        self._perform(self._story.on_log_end(step_run_id), logs)

    async def _look(self, logs: asyncio.TaskGroup) -> None:
        """Look at the run at the begin, and whenever something of it waits longer than a moment."""
        request = pipeline_pb2.GetPipelineRunRequest(run_id=self._run_id)
        while self._explain:
            self._look_wanted.clear()
            begin, asked = time.monotonic(), self._story.puzzles
            try:
                reply = await self._client.read(self._client.pipelines.GetPipelineRun, request)
            except AioRpcError:  # the streams tell of it, and it is asked again
                self._look_wanted.set()
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            self._perform(self._story.on_look(reply.run, asked), logs)
            await asyncio.sleep(LOOK_SHARE * (time.monotonic() - begin))
            await self._wait_for_puzzle()

    async def _wait_for_puzzle(self) -> None:
        while True:
            await self._look_wanted.wait()
            await asyncio.sleep(LOOK_GRACE_S)
            if self._story.puzzles:
                return
            self._look_wanted.clear()

    async def _await_logs(self) -> None:
        """Wait for the logs of an ended run; one that stays silent too long is told of and left."""
        while self._open_logs:
            before = self._batches_read
            done, pending = await asyncio.wait(
                self._open_logs.values(), timeout=LOG_SILENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
            if done or self._batches_read != before or self._link.is_down:
                continue
            for step_run_id in list(self._open_logs):
                self._screen.notice(
                    f"the log of {self._labels[step_run_id]} is not complete: `arcentra logs {step_run_id}` shows more "
                    "once it has arrived"
                )
            for task in pending:
                task.cancel()
            return

    async def _tick(self) -> None:
        while True:
            self._screen.tick()
            await asyncio.sleep(TICK_S)


async def read_log(
    client: Client, link: Link, step_run_id: str, reader: LogReader, *, follow: bool
) -> AsyncIterator[list[str]]:
    """Batches of whole lines of a log from where `reader` stands; over lost connections none is lost or repeated."""
    async for message in read_through(
        client.channel,
        link,
        lambda: client.stream(
            client.streams.StreamStepRunLogs,
            stream_pb2.StreamStepRunLogsRequest(step_run_id=step_run_id, offset=reader.offset, follow=follow),
        ),
    ):
        if lines := reader.take(message):
            yield lines
