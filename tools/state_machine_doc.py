"""Write docs/state_machine.md from the transition tables of the domain.

python -m tools.state_machine_doc            print it
python -m tools.state_machine_doc --write    write it to docs/
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from arcentra_server.domain.states import RunStatus, StepStatus
from arcentra_server.domain.transitions import JOB_TRANSITIONS, RUN_TRANSITIONS, STEP_TRANSITIONS
from tools.tree import ROOT

PATH = ROOT / "docs" / "state_machine.md"
INTRODUCTION = """\
# State machines

Generated from `src/arcentra_server/domain/transitions.py` by `python -m tools.state_machine_doc --write`: change that
file, not this one. A transition that is not in these tables is refused with `INVALID_TRANSITION`, whoever asks for it.
"""


@dataclass(frozen=True)
class Machine:
    """One table: the states that may follow each state."""

    title: str
    about: str
    first: StrEnum
    table: Mapping[Any, frozenset[Any]]
    states: type[StrEnum]

    def rows(self) -> Iterator[tuple[Any, list[Any]]]:
        """Yield each state with those that may follow it, both in the order in which the states are declared."""
        for source in self.states:
            if source in self.table:
                yield source, [state for state in self.states if state in self.table[source]]


MACHINES = (
    Machine(
        "Step run",
        "One attempt at one step. Its end never changes: a retry is a new step run with an id of its own.",
        StepStatus.PENDING,
        STEP_TRANSITIONS,
        StepStatus,
    ),
    Machine(
        "Job run",
        "A function of the last attempts of its steps. It opens again when one of them is retried, or when it was\n"
        "skipped because of the job that is retried.",
        RunStatus.PENDING,
        JOB_TRANSITIONS,
        RunStatus,
    ),
    Machine(
        "Pipeline run",
        "A function of its job runs, and whether it is paused. It opens again when a step of it is retried.",
        RunStatus.PENDING,
        RUN_TRANSITIONS,
        RunStatus,
    ),
)


def document() -> str:
    """Return the text of the page."""
    return "\n".join([INTRODUCTION, *("\n".join(_section(machine)) for machine in MACHINES)])


def _section(machine: Machine) -> Iterator[str]:
    rows = list(machine.rows())
    yield from (f"## {machine.title}", "", machine.about, "", "| From | To | Final |", "|---|---|---|")
    for source, following in rows:
        listed = ", ".join(f"`{state}`" for state in following) or "-"
        yield f"| `{source}` | {listed} | {'yes' if source.terminal else 'no'} |"
    yield from ("", "```mermaid", "stateDiagram-v2", f"    [*] --> {machine.first}")
    for source, following in rows:
        yield from (f"    {source} --> {state}" for state in following)
        if source.terminal:
            yield f"    {source} --> [*]"
    yield from ("```", "")


def write(path: Path = PATH) -> None:
    path.write_text(document(), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the state machines as a page.")
    parser.add_argument("--write", action="store_true", help=f"write {PATH.relative_to(ROOT)} instead of printing it")
    if parser.parse_args().write:
        write()
    else:
        print(document(), end="")


if __name__ == "__main__":
    main()
