"""What the load generators' command lines and outputs have in common."""

import argparse
import json
import os

from benchmarks.load.agents import Fleet

# Tokens come by the environment: a command line can be read by every user of the machine.
REGISTRATION_TOKEN_VARIABLE = "BENCHMARK_REGISTRATION_TOKEN"
TOKEN_VARIABLE = "BENCHMARK_TOKEN"


def emit(event: str, **members: float) -> None:
    """Print one event as a line of JSON."""
    print(json.dumps({"event": event, **members}), flush=True)


def fleet_arguments() -> argparse.ArgumentParser:
    """The options of every load with fake agents."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--target", required=True, help="HOST:PORT of the server, or of several, with commas between")
    parser.add_argument("--agents", type=int, required=True, help="how many agents")
    parser.add_argument("--slots", type=int, required=True, help="step runs an agent takes at once")
    parser.add_argument("--label", default="", metavar="K=V", help="a label that all of them have")
    parser.add_argument("--give-up-seconds", type=float, default=60.0, help="report what was done by then")
    return parser


def fleet_of(options: argparse.Namespace) -> Fleet:
    """The fleet those options describe."""
    key, _, value = options.label.partition("=")
    return Fleet(
        targets=tuple(options.target.split(",")),
        agents=options.agents,
        slots=options.slots,
        registration_token=os.environ.get(REGISTRATION_TOKEN_VARIABLE, ""),
        labels={key: value} if key else {},
    )
