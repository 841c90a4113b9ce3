"""`python -m benchmarks`: measure the server beside its limits, and write what came of it."""

import argparse
import asyncio
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bars import BARS
from benchmarks.harness import markdown, results
from benchmarks.harness.machine import allow_open_files, machine_facts, software_versions
from benchmarks.harness.processes import ProcessFailedError
from benchmarks.harness.results import Result, Spread
from benchmarks.harness.rounds import Runner
from benchmarks.harness.scenario import Scenario, SkippedError
from benchmarks.scenarios import all_scenarios

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "performance.md"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help="names of scenarios, separated by commas (all)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, no bars, nothing written: does it run?")
    parser.add_argument("--limit-only", action="store_true", help="measure the limits alone, nothing written")
    parser.add_argument(
        "--work-dir", type=Path, help="where databases live while measured (the system's temporary one)"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the scenarios")
    return parser


def chosen(only: str | None) -> list[Scenario]:
    """The scenarios named, or all.

    Raises:
        SystemExit: there is no scenario of a name.
    """
    known = all_scenarios()
    names = only.split(",") if only else list(known)
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"no such scenario: {', '.join(unknown)}; there are: {', '.join(known)}")
    return [known[name] for name in names]


async def measure_limit(runner: Runner, scenario: Scenario, rounds: int) -> bool:
    """Measure the limit alone; answers whether its runs had no fault."""
    samples = [(await runner.run_side(scenario, scenario.limit, "limit"))[0] for _ in range(rounds)]
    values = Spread.of(sample.value for sample in samples)
    print(f"  limit {markdown.spread(values.members())} {scenario.unit}")
    return not any(sample.faults for sample in samples)


async def measure(runner: Runner, scenario: Scenario, rounds: int) -> bool:
    """Measure both sides, print what came of it and (unless it is a smoke run) store it; answers whether it passed."""
    measured, postgres = await runner.run(scenario, rounds)
    result = Result(scenario, measured, BARS[scenario.name])
    versions = {**software_versions(), "postgresql": postgres}
    document = result.document(machine_facts(runner.work_dir), versions, datetime.now(UTC).date().isoformat())
    print(f"\n{markdown.table([document])}\n")
    if runner.smoke:
        return not result.faults
    results.store(RESULTS, document)
    markdown.write_section(DOCUMENT, markdown.table(results.load_all(RESULTS)))
    return result.passed


async def run(options: argparse.Namespace) -> int:
    """Run what the command line asks for; answers the exit code."""
    if task := asyncio.current_task():  # SIGTERM unwinds as Ctrl-C does, so that no program is left running
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    allow_open_files()
    work_dir = options.work_dir or Path(tempfile.gettempdir())
    work_dir.mkdir(parents=True, exist_ok=True)
    runner = Runner(work_dir, options.smoke, lambda line: print(line, flush=True))
    passed = True
    for scenario in chosen(options.only):
        print(f"{scenario.name}: {scenario.measure}", flush=True)
        step = measure_limit if options.limit_only else measure
        try:
            passed &= await step(runner, scenario, 1 if options.smoke else options.rounds)
        except SkippedError as reason:
            print(f"  skipped: {reason}", file=sys.stderr)
        except ProcessFailedError as error:
            print(f"  {error}", file=sys.stderr)
            passed = False
    return 0 if passed else 1


def main() -> None:
    """Read the command line and run."""
    options = arguments().parse_args()
    if options.list:
        print("\n".join(all_scenarios()))
        return
    try:
        sys.exit(asyncio.run(run(options)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
