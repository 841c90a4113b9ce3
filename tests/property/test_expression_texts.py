"""Texts with expressions, for any text and any value: what is no expression stays, and no value becomes one."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from arcentra_server.domain.expressions import (
    ExpressionError,
    Templates,
    check_condition,
    check_text,
    fill_secrets,
    literal,
    render,
    render_value,
    rendered,
    secrets_in,
    templates_of,
)
from arcentra_server.domain.expressions.marks import mark, marked
from arcentra_server.domain.expressions.program import LONGEST_EXPRESSION, compiled
from tests.unit.domain.expressions.places import CONDITION, CONTEXT, NAMES, context

PARTS = st.sampled_from(
    ["${{", "}}", "$", "{", "}", "'", '"', "\\", "\n", "\0", "secret:", "TOKEN", "\0secret:TOKEN\0", "${{ secrets.TOKEN }}",
     "${{ branch }}", "branch", "event.x", "+", "(", ")", "[", "]", ".", ",", "==", "&&", "has(", ".map(a, ", " ", "é", "1"]
)  # fmt: skip
TEXTS = st.lists(PARTS | st.text(max_size=5), max_size=8).map("".join)
STORED = TEXTS.map(lambda text: text.replace("\0", ""))
DATA: st.SearchStrategy[Any] = st.recursive(
    TEXTS | st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
# Every way in which a value can get into a text.
WAYS = [
    "${{ event.value }}", "a ${{ event.value }} b", "${{ event.value + '' }}", "${{ [event.value][0] }}", "${{ env.VALUE }}",
    "${{ [event.value].map(v, v + '')[0] }}", '${{ {"a": event.value}.a }}', "${{ variables.value }}", "${{ branch }}",
    "${{ event.value.replace('a', event.value) }}", "${{ event.value.split('').join('') }}", "${{ steps.s.outputs.value }}",
    "${{ event.value }}${{ event.value }}", "\0secret:${{ event.value }}\0", "${{ needs.j.outputs.value }}", "${{ matrix.value }}",
]  # fmt: skip


def with_value(value: Any) -> Any:
    ended = {"result": "success", "outputs": {"value": value}}
    return context(
        variables={"value": value},
        env={"VALUE": value},
        branch=value,
        needs={"j": ended},
        steps={"s": ended},
        matrix={"value": value},
        event={"value": value},
    )


@given(STORED.filter(lambda text: "${{" not in text))
def test_a_text_without_expressions_is_itself(text: str) -> None:
    assert render(text, CONTEXT) == text
    assert render_value({"a": [text]}, CONTEXT) == {"a": [text]}
    assert check_text(text, NAMES) == []
    assert templates_of({"A": text}, "shell", {"script": text}, text) is None


@given(STORED)
def test_a_literal_is_itself_when_it_is_rendered(text: str) -> None:
    assert render(literal(text), CONTEXT) == text
    assert secrets_in(literal(text)) == frozenset()


@settings(deadline=None)
@given(TEXTS, st.sampled_from(WAYS))
@example(mark("TOKEN"), WAYS[0])
@example(mark("TOKEN"), "\0secret:${{ event.value }}\0")
@example("TOKEN", "\0secret:${{ event.value }}\0")
def test_no_value_is_a_mark_or_is_evaluated(value: str, way: str) -> None:
    result = render(way, with_value(value))
    assert "\0" not in result
    assert fill_secrets(result, {}) == result
    if way == "${{ event.value }}" and value.isascii():
        assert result == value.replace("\0", "")


@settings(deadline=None)
@given(DATA)
def test_no_data_is_a_mark_or_is_evaluated(value: Any) -> None:
    result = render_value({"a": "${{ event.value }}"}, context(event={"value": value}))
    assert "\\u0000" not in json.dumps(result).replace("\\\\", "")
    if "\0" not in str(value).replace("\\x00", "\0") and str(value).isascii():
        assert result == {"a": value}


@settings(deadline=None)
@given(TEXTS, TEXTS, TEXTS, st.sampled_from(WAYS))
@example("", "", "\0secret:TOKEN\0 ${{ branch }}", WAYS[0])
@example("", "\0secret:TOKEN\0", "${{ branch }}", WAYS[0])
def test_the_secrets_of_a_step_are_those_that_it_names(value: str, text: str, script: str, way: str) -> None:
    templates = templates_of({"A": text.replace("\0", "")}, "shell", {"script": script, "list": [way]}, way)
    assert templates is not None
    assert Templates.from_json(json.loads(json.dumps(templates.to_json()))) == templates
    try:
        step = rendered(templates, with_value(value))
    except ExpressionError:
        return
    named = secrets_in([templates.env, script, way])
    found = marked([*step.env.values(), step.image or "", *(step.args or {}).get("list", [])])
    assert step.secrets == found <= named


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_any_text_is_answered_by_faults_or_a_value(text: str) -> None:
    for expression in (text, f"${{{{ {text} }}}}"):
        for fault in (*check_condition(expression, CONDITION), *check_text(expression, NAMES)):
            assert fault.startswith("invalid expression at ")
            assert fault.isprintable()
        with suppress(ExpressionError):
            assert "\0" not in render(expression, CONTEXT).replace(mark("TOKEN"), "")


@given(st.integers(LONGEST_EXPRESSION - 3, LONGEST_EXPRESSION + 3), st.sampled_from(["a", "é", "😀"]))
def test_an_expression_has_at_most_1_kib(size: int, letter: str) -> None:
    source = f"'{letter * ((size - 2) // len(letter.encode()))}'"
    assert bool(compiled(source).problems) is (len(source.encode()) > LONGEST_EXPRESSION)
