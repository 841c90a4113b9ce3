"""Load of the latency scenario: `python -m benchmarks.load.latency --target HOST:PORT --pipeline ID ...`.

Triggers a one-step pipeline at a steady rate while fake agents with free slots hold their streams, and times each
TriggerPipeline call until its answer and until the dispatch of its step run is received. Calls start on schedule
whether or not earlier ones have been answered, so a slow server cannot slow the clock down. Prints JSON lines:
`{"event": "started"}` at the first call and `{"event": "finished", ...}` with milliseconds when all are done.
"""

import argparse
import asyncio
import contextlib
import os
import time
from dataclasses import dataclass, field
from statistics import median, quantiles

from grpc import aio

from arcentra_api.agent.v1 import agent_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2, pipeline_pb2_grpc
from benchmarks.load.agents import Fleet
from benchmarks.load.command_line import TOKEN_VARIABLE, emit, fleet_arguments, fleet_of
from benchmarks.load.tally import Tally

WARM_UP_CALLS = 20


@dataclass(slots=True)
class Clock:
    """When each run was called for, answered and dispatched, in `time.perf_counter` seconds by run id."""

    called: dict[str, float] = field(default_factory=dict)
    answered: dict[str, float] = field(default_factory=dict)
    dispatched: dict[str, float] = field(default_factory=dict)

    def on_dispatch(self, step: agent_pb2.StepRun) -> None:
        """Note the arrival of a dispatch; it may come before the answer of the call that caused it."""
        self.dispatched[step.pipeline_run_id] = time.perf_counter()

    def waits(self, until: dict[str, float]) -> list[float]:
        """Milliseconds from each call to its entry in `until`, without the calls of the warm-up."""
        runs = sorted(self.called, key=self.called.__getitem__)[WARM_UP_CALLS:]
        return [(until[run] - self.called[run]) * 1000 for run in runs if run in until]


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls TriggerPipeline of one pipeline as a user with a token."""

    stub: pipeline_pb2_grpc.PipelineServiceStub
    pipeline_id: str
    token: str
    clock: Clock

    async def call(self) -> None:
        """Trigger one run."""
        called = time.perf_counter()
        response = await self.stub.TriggerPipeline(
            pipeline_pb2.TriggerPipelineRequest(pipeline_id=self.pipeline_id),
            metadata=(("authorization", f"Bearer {self.token}"),),
        )
        self.clock.answered[response.run_id] = time.perf_counter()
        self.clock.called[response.run_id] = called

    async def call_steadily(self, calls: int, rate: float) -> None:
        """Start `calls` calls, `rate` a second, by the clock."""
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number in range(calls):
                await asyncio.sleep(begin + number / rate - time.perf_counter())
                tasks.create_task(self.call())


def percentiles(waits: list[float], name: str) -> dict[str, float]:
    """The middle and the tail of some waits."""
    if len(waits) < 2:
        return {}
    return {f"{name}_p50_ms": median(waits), f"{name}_p99_ms": quantiles(waits, n=100, method="inclusive")[98]}


async def measure(fleet: Fleet, pipeline_id: str, calls: int, rate: float, give_up_seconds: float) -> None:
    """Run the fleet and the caller, and print what they saw."""
    clock = Clock()
    calls += WARM_UP_CALLS
    tally = Tally(expected=calls, on_dispatch=clock.on_dispatch)
    async with aio.insecure_channel(fleet.targets[0]) as channel, fleet.connected(tally):
        caller = Caller(
            pipeline_pb2_grpc.PipelineServiceStub(channel), pipeline_id, os.environ.get(TOKEN_VARIABLE, ""), clock
        )
        emit("started")
        await caller.call_steadily(calls, rate)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(give_up_seconds):
                await tally.complete.wait()
        dispatch = percentiles(clock.waits(clock.dispatched), "dispatch")
        answer = percentiles(clock.waits(clock.answered), "answer")
        emit("finished", **{**tally.report(), **dispatch, **answer})


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, parents=[fleet_arguments()])
    parser.add_argument("--pipeline", required=True, help="id of a pipeline with one job of one step")
    parser.add_argument("--calls", type=int, required=True, help="calls to measure, after a short warm-up")
    parser.add_argument("--rate", type=float, default=20.0, help="calls a second")
    options = parser.parse_args()
    asyncio.run(measure(fleet_of(options), options.pipeline, options.calls, options.rate, options.give_up_seconds))


if __name__ == "__main__":
    main()
