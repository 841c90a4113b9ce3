"""Load of the lifecycle scenarios: `python -m benchmarks.load.lifecycle --target HOST:PORT ...`.

Connects fake agents to a server whose queue is full, and drains it. Prints JSON lines: `{"event": "started"}` at the
first dispatch, `{"event": "finished", ...}` with the counts at the last acknowledged SUCCESS (or when the time is up).
"""

import argparse
import asyncio
import contextlib

from benchmarks.load.agents import Fleet
from benchmarks.load.command_line import emit, fleet_arguments, fleet_of
from benchmarks.load.tally import Tally


async def drain(fleet: Fleet, steps: int, give_up_seconds: float) -> None:
    """Run the fleet until `steps` step runs are done."""
    tally = Tally(expected=steps, on_first=lambda: emit("started"))
    async with fleet.connected(tally):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(give_up_seconds):
                await tally.complete.wait()
        emit("finished", **tally.report())


def main() -> None:
    """Read the command line and drain the queue."""
    parser = argparse.ArgumentParser(description=__doc__, parents=[fleet_arguments()])
    parser.add_argument("--steps", type=int, required=True, help="step runs that wait in the queue")
    options = parser.parse_args()
    asyncio.run(drain(fleet_of(options), options.steps, options.give_up_seconds))


if __name__ == "__main__":
    main()
