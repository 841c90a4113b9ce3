"""docs/state_machine.md says what the tables say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from arcentra_server.domain.transitions import (
    APPROVAL_TRANSITIONS,
    GATE_TRANSITIONS,
    JOB_TRANSITIONS,
    RUN_TRANSITIONS,
    STEP_TRANSITIONS,
)
from tools.state_machine_doc import PATH, document

SECTIONS: dict[str, Mapping[Any, Iterable[Any]]] = {
    "Step run": STEP_TRANSITIONS,
    "Job run": JOB_TRANSITIONS,
    "Pipeline run": RUN_TRANSITIONS,
    "Gate": GATE_TRANSITIONS,
    "Approval": APPROVAL_TRANSITIONS,
}


def test_committed_page_is_what_the_generator_writes() -> None:
    wanted = "run `python -m tools.state_machine_doc --write`"
    assert PATH.read_text(encoding="utf-8") == document(), wanted


@pytest.mark.parametrize("title", SECTIONS)
def test_page_holds_every_transition_twice_and_no_other(title: str) -> None:
    section = document().partition(f"## {title}\n")[2].partition("\n## ")[0]
    expected = {(source.value, to.value) for source, following in SECTIONS[title].items() for to in following}
    drawn = set(re.findall(r"^ +(\w+) --> (\w+)$", section, re.MULTILINE))
    listed = {
        (source, to)
        for source, following in re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE)
        for to in re.findall(r"`(\w+)`", following)
    }
    assert drawn == listed == expected
