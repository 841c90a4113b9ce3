"""Load of the idle-agents scenario: `python -m benchmarks.load.idle_agents --target HOST:PORT ...`.

Registers fake agents over one connection, and then lets all of them connect and open their streams at the same moment,
as they do when a server comes back. Prints JSON lines: `{"event": "opened"}` when the server has said something to each
(or when the time is up), and waits for `--steps` step runs to be done; after `--settle-seconds`, `{"event": "started"}`,
and from there on nothing happens for `--hold-seconds` but heartbeats; `{"event": "finished", ...}`.
"""

import argparse
import asyncio
import contextlib
import time
from dataclasses import dataclass

from grpc import aio

from benchmarks.load.agents import FakeAgent, Fleet
from benchmarks.load.command_line import emit, fleet_arguments, fleet_of
from benchmarks.load.tally import Tally


@dataclass(slots=True)
class Streams:
    """The streams of a fleet: how many have ended, which none should."""

    ended: int = 0

    async def hold(self, agent: FakeAgent) -> None:
        """Hold the stream of an agent, and count its end."""
        try:
            await agent.run()
        except* (ConnectionError, aio.AioRpcError):
            self.ended += 1


async def open_all(fleet: list[FakeAgent], give_up_seconds: float) -> float:
    """Wait until every agent has heard the server; answers the seconds, of those that do not as long as was waited."""
    begin = time.perf_counter()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(give_up_seconds):
            for agent in fleet:
                await agent.heard.wait()
    return time.perf_counter() - begin


async def measure(fleet: Fleet, steps: int, settle_seconds: float, hold_seconds: float, give_up_seconds: float) -> None:
    """Run the fleet and print what it saw."""
    tally, streams = Tally(expected=steps), Streams()
    async with (
        aio.insecure_channel(fleet.targets[0]) as lobby,
        fleet.registered(tally, lobby=lobby) as agents,
        asyncio.TaskGroup() as tasks,
    ):
        holding = [tasks.create_task(streams.hold(agent)) for agent in agents]
        open_seconds = await open_all(agents, give_up_seconds)
        silent = sum(not agent.heard.is_set() for agent in agents)
        emit("opened")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(give_up_seconds):
                await tally.complete.wait()
        await asyncio.sleep(settle_seconds)
        sent = tally.messages_out
        emit("started")
        await asyncio.sleep(hold_seconds)
        figures = {
            "open_seconds": open_seconds,
            "lost": max(silent, streams.ended),
            "held_seconds": hold_seconds,
            "heartbeats": tally.messages_out - sent,
        }
        emit("finished", **{**tally.report(), **figures})
        for task in holding:
            task.cancel()


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, parents=[fleet_arguments()])
    parser.add_argument("--steps", type=int, required=True, help="step runs to take once all streams are open")
    parser.add_argument(
        "--settle-seconds", type=float, required=True, help="how long to wait until what was done settles"
    )
    parser.add_argument("--hold-seconds", type=float, required=True, help="how long to do nothing then")
    options = parser.parse_args()
    asyncio.run(
        measure(fleet_of(options), options.steps, options.settle_seconds, options.hold_seconds, options.give_up_seconds)
    )


if __name__ == "__main__":
    main()
