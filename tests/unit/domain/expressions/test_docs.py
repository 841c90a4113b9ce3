"""What `docs/expressions.md` says is so: its examples are evaluated, its definitions checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcentra_server.domain.definition_checks import check_pipeline
from arcentra_server.domain.expressions import check_text, render_value, rendered, templates_of
from arcentra_server.domain.expressions.check import expression_warnings
from arcentra_server.domain.expressions.code_arguments import INTERPRETERS, NEVER, PYTHONS, SHELLS
from arcentra_server.domain.expressions.complaints import FUNCTIONS, MACROS
from arcentra_server.domain.expressions.functions import MOST_BYTES, MOST_STEPS
from arcentra_server.domain.expressions.names import JOB_FIELDS, RESULTS, RUN_FIELDS
from arcentra_server.domain.expressions.references import ROOTS
from arcentra_server.domain.expressions.values import LARGEST_RESULT
from arcentra_server.domain.forge import ForgeEvent
from arcentra_server.rpc.convert.document import read_pipeline
from tests.unit.domain.expressions.places import CONTEXT, NAMES, context

PAGE = (Path(__file__).parents[4] / "docs" / "expressions.md").read_text("utf-8")
EVENT = {**CONTEXT.event, "paths": ["docs/a.md", "src/b.py"]}


def rows(first: str, second: str) -> list[tuple[str, str]]:
    return list(_rows(first, second))


def _rows(first: str, second: str) -> Iterator[tuple[str, str]]:
    table = PAGE.partition(f"| {first} | {second} |\n|---|---|\n")[2].partition("\n\n")[0]
    for line in table.splitlines():
        left, right = re.split(r"(?<!\\) \| ", line.strip("| "))
        yield left.strip("`").replace(r"\|", "|"), right.strip("`")


@pytest.mark.parametrize(("source", "value"), rows("expression", "value"))
def test_an_expression_has_the_value_that_is_written_beside_it(source: str, value: str) -> None:
    text = f"${{{{ {source} }}}}"
    assert check_text(text, NAMES) == []
    assert render_value(text, context(event=EVENT)) == json.loads(value)


@pytest.mark.parametrize(("script", "sent"), rows("written", "what the shell gets"))
def test_a_script_becomes_what_is_written_beside_it(script: str, sent: str) -> None:
    templates = templates_of({}, "shell", {"script": script}, "")
    assert templates is not None
    assert rendered(templates, CONTEXT).args == {"script": sent}


def test_the_programs_that_are_looked_at_are_those_that_are_named() -> None:
    named = dict(rows("program", "an expression may stand"))
    assert [tuple(re.findall(r"`([^`]+)`", f"`{programs}`")) for programs in named] == [
        SHELLS,
        PYTHONS,
        INTERPRETERS,
        (*NEVER, *(f"{name} {option}" for name, option in (("env", "-S"), ("cmd", "/c")))),
    ]


def test_the_limits_are_those_that_are_written() -> None:
    assert f"{MOST_STEPS:,} steps and {MOST_BYTES // 1024 // 1024} MiB together" in PAGE
    assert f"| a value, and a text with its values | {LARGEST_RESULT // 1024} KiB |" in PAGE


def test_there_are_tables_to_evaluate() -> None:
    assert len(rows("expression", "value")) > 10
    assert len(rows("written", "what the shell gets")) == 2


def test_the_definition_has_no_faults() -> None:
    documents = re.findall(r"```yaml\n(name: .*?)```", PAGE, re.DOTALL)
    assert len(documents) == 1
    spec = read_pipeline(documents[0]).spec
    assert check_pipeline(spec) == []
    assert expression_warnings(spec) == []


def test_everything_that_there_is_stands_on_the_page() -> None:
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    words = set(re.findall(r"[A-Za-z0-9_]+", " ".join(re.findall(r"`([^`]+)`", prose))))
    event = ForgeEvent("push", payload={}).context()
    assert {*ROOTS, *RUN_FIELDS, *JOB_FIELDS, *RESULTS, *FUNCTIONS, *MACROS, *event} <= words
