"""Run simulated agents until SIGTERM. Prints `ready` when all have begun, and says on stderr why one ended."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from tests.support.simagent.agent import Settings, SimAgent
from tests.support.simagent.plan import Odds
from tests.support.simagent.steps import labels_of

TOKEN_VARIABLE = "ARCENTRA_SIM_TOKEN"


def _settings() -> tuple[Settings, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="python -m tests.support.simagent")
    parser.add_argument("--server", required=True, help="HOST:PORT")
    parser.add_argument("--journal", required=True, type=Path, help="folder of journals and credentials")
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("--pulling", type=int, default=0, help="how many of them pull instead of holding Connect")
    parser.add_argument("--name", default="sim")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--labels", default="", help="KEY=VALUE,KEY=VALUE")
    parser.add_argument("--lease", type=float, default=30.0, help="seconds; the watchdog takes 25/30 of it")
    parser.add_argument("--heartbeat", type=float, default=10.0, help="seconds")
    parser.add_argument("--step-seconds", type=float, nargs=2, default=(0.02, 0.2), metavar=("FROM", "TO"))
    parser.add_argument("--failing", type=int, default=0, help="steps of a hundred that fail")
    parser.add_argument("--logs", type=float, default=0.5, help="part of the steps that write a log")
    parser.add_argument("--events", type=float, default=0.5, help="part of the steps that make events")
    given = parser.parse_args()
    given.journal.mkdir(parents=True, exist_ok=True)
    odds = Odds(given.seed, tuple(given.step_seconds), given.failing, given.logs, given.events)
    settings = Settings(
        server=given.server,
        folder=given.journal,
        token=os.environ.get(TOKEN_VARIABLE, ""),
        slots=given.slots,
        heartbeat=given.heartbeat,
        lease=given.lease,
        labels=labels_of(given.labels),
        odds=odds,
    )
    return settings, given


async def _run(settings: Settings, given: argparse.Namespace) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(SimAgent(settings, f"{given.name}-{number}", number, pulls=number < given.pulling).run())
            for number in range(given.agents)
        ]
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, lambda: [task.cancel() for task in tasks])
        sys.stdout.write("ready\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_run(*_settings()))
