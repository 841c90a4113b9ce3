"""Run the checks of the tree, two at a time, and end with a summary.

    python -m tools.check                    every check
    python -m tools.check --quick            those that need no database and no type checker
    python -m tools.check --only lint,types  those named
    python -m tools.check --list             what there is

All run even when one fails. Exits 1 when one did.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tools.tree import ROOT

PYTHON = sys.executable
AT_ONCE = 2


@dataclass(frozen=True)
class Check:
    """A command, run at the root of the tree; exit code 0 means that the tree is in order."""

    name: str
    command: tuple[str, ...]
    about: str
    quick: bool = True


@dataclass(frozen=True)
class Result:
    """What a check came to: its exit code, its time and all that it printed."""

    check: Check
    code: int
    seconds: float
    output: str

    @property
    def verdict(self) -> str:
        if self.code:
            return "FAILED"
        return "skipped" if self.output.startswith("skipped") else "ok"


# The longest first, so that the short ones fill the other place meanwhile.
CHECKS = (
    Check("types", ("mypy",), "mypy --strict", quick=False),
    Check("migrations", (PYTHON, "-m", "tools.check_migrations"), "migrations in step with the tables", quick=False),
    Check(
        "contract",
        (PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract"),
        "the fixed wire contract",
    ),
    Check("imports", ("lint-imports", "--no-cache", "--no-logo"), "layers: who may import whom"),
    Check("dead-code", (PYTHON, "-m", "tools.check_dead_code"), "code that nothing uses"),
    Check("dependencies", ("deptry", "--no-ansi", "src"), "declared and imported packages agree"),
    Check("lock", (PYTHON, "-m", "tools.check_lock"), "requirements-dev.lock in step with pyproject.toml"),
    Check("stubs", (PYTHON, "-m", "tools.check_stubs"), "generated stubs unchanged"),
    Check("breaking", (PYTHON, "-m", "tools.check_breaking"), "buf breaking against main"),
    Check("proto-lint", ("buf", "lint"), "buf lint"),
    Check("lint", ("ruff", "check", "."), "ruff, with the banned APIs"),
    Check("format", ("ruff", "format", "--check", "."), "ruff format"),
    Check("schema", (PYTHON, "-m", "tools.pipeline_schema"), "docs/pipeline.schema.json in step with the reader"),
    Check("sizes", (PYTHON, "-m", "tools.check_sizes"), "long modules, functions and records"),
    Check("leftovers", (PYTHON, "-m", "tools.check_leftovers"), "unfinished code, machine paths, registry addresses"),
)


def run(check: Check) -> Result:
    started = time.monotonic()
    try:
        done = subprocess.run(
            check.command,
            cwd=ROOT,
            env=environment(),
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError as error:
        return Result(check, 127, time.monotonic() - started, str(error))
    return Result(check, done.returncode, time.monotonic() - started, done.stdout.strip())


def environment() -> dict[str, str]:
    """The caller's, with the tools of this interpreter's environment before all others."""
    bin_dir = Path(sys.prefix, "bin")
    # buf insists on a cache folder even for local work; a user without a home has no other place for it.
    cache = {"BUF_CACHE_DIR": str(Path(sys.prefix, ".cache", "buf"))}
    return cache | os.environ | {"PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}"}


def report(result: Result) -> None:
    line = f"{result.verdict:8}{result.check.name:14}{result.seconds:6.1f} s  {result.check.about}"
    if result.verdict == "skipped":
        line += f" ({result.output.splitlines()[0]})"
    print(line, flush=True)
    if result.code:
        print(*(f"    {text}" for text in result.output.splitlines()), sep="\n", flush=True)


def run_all(checks: Sequence[Check]) -> int:
    """Run `checks`, print each as it ends and a summary, and return the number that failed."""
    started = time.monotonic()
    failed: list[str] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in as_completed([pool.submit(run, check) for check in checks]):
            result = done.result()
            report(result)
            if result.code:
                failed.append(result.check.name)
    summary = f"failed: {', '.join(sorted(failed))}" if failed else "all in order"
    print(f"{len(checks)} checks in {time.monotonic() - started:.1f} s, {summary}")
    return len(failed)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the checks of the tree.")
    parser.add_argument("--quick", action="store_true", help="leave out types and migrations")
    parser.add_argument("--only", metavar="NAME,...", help="run these alone")
    parser.add_argument("--list", action="store_true", help="say what there is")
    arguments = parser.parse_args()
    chosen = [check for check in CHECKS if check.quick or not arguments.quick]
    if arguments.only:
        names = arguments.only.split(",")
        if unknown := set(names) - {check.name for check in CHECKS}:
            parser.error(f"no check named {', '.join(sorted(unknown))}")
        chosen = [check for check in CHECKS if check.name in names]
    if arguments.list:
        print(*(f"{check.name:14}{check.about}" for check in chosen), sep="\n")
        return
    sys.exit(bool(run_all(chosen)))


if __name__ == "__main__":
    main()
