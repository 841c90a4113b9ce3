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

from arcentra_server.domain.states import ApprovalState, GateState, RunStatus, StepStatus
from arcentra_server.domain.transitions import (
    APPROVAL_TRANSITIONS,
    GATE_TRANSITIONS,
    JOB_TRANSITIONS,
    RUN_TRANSITIONS,
    STEP_TRANSITIONS,
)
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

    def ends(self, state: Any) -> bool:
        """Answer whether a state is an end, though a retry may open it again."""
        return bool(state.terminal) if hasattr(state, "terminal") else not self.table[state]


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
        "A function of the last attempts of its steps, of its condition, its time limit and its gate. It goes back to\n"
        "`PENDING` for another attempt, by its retry rule or because somebody asks for it: for this job, or for one\n"
        "because of which it was skipped.",
        RunStatus.PENDING,
        JOB_TRANSITIONS,
        RunStatus,
    ),
    Machine(
        "Pipeline run",
        "A function of its job runs, and of whether it is paused, was stopped, took too long, or was refused at a gate.\n"
        "It opens again when a job of it is retried.",
        RunStatus.PENDING,
        RUN_TRANSITIONS,
        RunStatus,
    ),
    Machine(
        "Gate",
        "Before a stage, or after a job. It is `REQUIRED` until it is reached, and `WAITING` until somebody decides. It is\n"
        "asked again after a retry, unless only what stands behind it is retried.",
        GateState.REQUIRED,
        GATE_TRANSITIONS,
        GateState,
    ),
    Machine(
        "Approval",
        "The decision at a gate that was reached. It is made once. `EXPIRED`, as nobody decided in time, counts as\n"
        "`REJECTED`; `CANCELLED`, as nothing is left behind the gate, counts as nothing.",
        ApprovalState.PENDING,
        APPROVAL_TRANSITIONS,
        ApprovalState,
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
        yield f"| `{source}` | {listed} | {'yes' if machine.ends(source) else 'no'} |"
    yield from ("", "```mermaid", "stateDiagram-v2", f"    [*] --> {machine.first}")
    for source, following in rows:
        yield from (f"    {source} --> {state}" for state in following)
        if machine.ends(source):
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
