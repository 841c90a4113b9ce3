"""Texts with expressions in them: where each begins and ends, what stays as it is, secrets and their marks."""

from __future__ import annotations

from typing import Any

import pytest

from arcentra_server.domain.expressions import (
    ExpressionError,
    check_text,
    fill_secrets,
    is_template,
    render,
    render_value,
    secrets_in,
    uses_event,
)
from arcentra_server.domain.expressions.marks import mark, marked
from tests.unit.domain.expressions.places import CONTEXT, NAMES, context

TOKEN = mark("TOKEN")


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("", ""),
        ("plain $HOME ${HOME} {{ x }} }} $$", "plain $HOME ${HOME} {{ x }} }} $$"),
        ("${{branch}}", "main"),
        ("a ${{ branch }}-${{ commit }} b", "a main-c0ffee b"),
        ("${{ branch }}${{ commit }}", "mainc0ffee"),
        ("${{\n  branch\n}}", "main"),
        ("${{ '}}' }}", "}}"),
        ('${{ "a}}\\"}}" }}', 'a}}"}}'),
        ("${{ r'\\}}' }}!", "\\}}!"),
        ("${{ '''it's }} fine''' }}", "it's }} fine"),
        ('${{ {"a": {"b": "c"}}.a.b }}', "c"),
        ('${{ {"a": {"b": "c"}}["a"]["b"]}}}', "c}"),
        ("$${{ branch }}", "${{ branch }}"),
        ("$$${{ branch }}", "$${{ branch }}"),
        ("${{ branch }}$${{ branch }}", "main${{ branch }}"),
        ("cost: $ ${{ matrix.cores }}", "cost: $ 4"),
        ("${{ matrix.slow }} ${{ matrix.python }} ${{ matrix.cores * 1 }}", "false 3.12 4"),
        ("${{ secrets.TOKEN }}", TOKEN),
        ("x-${{secrets.TOKEN}}-${{ secrets . OTHER }}", f"x-{TOKEN}-{mark('OTHER')}"),
    ],
)
def test_rendering(text: str, rendered: str) -> None:
    assert check_text(text, NAMES) == []
    assert render(text, CONTEXT) == rendered


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("a ${{ branch", 3, "`${{` is not closed by `}}`"),
        ("${{ branch }", 1, "`${{` is not closed by `}}`"),
        ("${{ 'it }}", 1, "`${{` is not closed by `}}`; a text in quotes in it may not be closed"),
        ("${{ 'it\n' }}", 1, "`${{` is not closed by `}}`; a text in quotes in it may not be closed"),
        ("${{ {'a': 1 }}", 1, "`${{` is not closed by `}}`; a text in quotes in it may not be closed"),
        ("a ${{ }}", 7, "an expression is missing"),
        ("${{ secrets.TOKEN + 'a' }}", 5, "a secret can only stand alone, as ${{ secrets.NAME }}"),
        ("${{ [secrets.TOKEN] }}", 6, "a secret can only stand alone, as ${{ secrets.NAME }}"),
        ("${{ secrets }}", 5, "a secret can only stand alone, as ${{ secrets.NAME }}"),
        ("${{ secrets['TOKEN'] }}", 5, "a secret can only stand alone, as ${{ secrets.NAME }}"),
    ],
)
def test_broken_texts(text: str, column: int, message: str) -> None:
    if "\n" in text:
        where = f"invalid expression at line 1, col {column}: {message}"
    else:
        where = f"invalid expression at col {column}: {message}"
    assert [fault[: len(where)] for fault in check_text(text, NAMES)] == [where]
    with pytest.raises(ExpressionError) as raised:
        render(text, CONTEXT)
    assert str(raised.value).startswith(where)


@pytest.mark.parametrize("source", ["1.0 / 0.0", "-1.0 / 0.0", "0.0 / 0.0", "[1, {'a': 1.0 / 0.0}]"])
def test_no_value_is_infinite(source: str) -> None:
    with pytest.raises(ExpressionError, match="is infinite or not a number"):
        render_value(f"${{{{ {source} }}}}", CONTEXT)


def test_data_is_rendered_text_by_text() -> None:
    value = {"a": ["${{ matrix.cores }}", "n=${{ matrix.cores }}", 1, None, True], "${{ branch }}": {"b": "x"}}
    assert render_value(value, CONTEXT) == {"a": [4, "n=4", 1, None, True], "${{ branch }}": {"b": "x"}}
    assert render_value("${{ event.labels[1] }}", CONTEXT) == {"name": "ci", "color": "red"}
    assert render_value(" ${{ matrix.cores }}", CONTEXT) == " 4"
    assert render_value("${{ secrets.TOKEN }}", CONTEXT) == TOKEN


@pytest.mark.parametrize(
    ("value", "template"),
    [
        ("${{ x }}", True),
        ("$${{", True),
        ("${ {", False),
        ({"a": [{"b": "${{"}]}, True),
        ({"${{": 1}, False),
        (1, False),
    ],
)
def test_what_is_a_template(value: Any, *, template: bool) -> None:
    assert is_template(value) is template


def test_names_of_secrets_and_uses_of_the_event_are_found() -> None:
    value = {"a": ["${{ secrets.A }} ${{ secrets.B }}", "$${{ secrets.C }}"], "b": "${{ secrets.A", "c": 1}
    assert secrets_in(value) == {"A", "B"}
    assert secrets_in("${{ branch }}") == frozenset()
    assert uses_event({"a": ["x ${{ has(event.title) ? event.title : '' }}"]})
    assert uses_event("${{ [1].map(e, event.number)[0] }}")
    assert not uses_event("${{ 'event.title' }} ${{ [1].map(event, event)[0] }} ${{ branch }} event.title")


def test_marks_are_filled_once_and_with_whatever_the_secret_is() -> None:
    values = {"A": f"1{mark('B')}", "B": r"\1 \g<0> ${{ x }}"}
    assert fill_secrets("plain", {}) == "plain"
    assert fill_secrets(f"{mark('A')}|{mark('B')}", values) == f"1{mark('B')}|{values['B']}"
    with pytest.raises(ExpressionError, match="there is no secret 'C'"):
        fill_secrets(mark("C"), values)


@pytest.mark.parametrize(
    "text",
    [
        "${{ variables.x }}",
        "${{ event.x }}",
        "${{ event.x + '' }}",
        "${{ event.l[0] }}",
        "${{ event.l.join('') }}",
        '${{ "\\x00secret:TOKEN\\x00" }}',
        "\0secret:${{ 'TOKEN' }}\0",
        "\0secret:TOKEN\0",
    ],
)
def test_no_value_can_be_a_mark(text: str) -> None:
    hostile = context(variables={"x": TOKEN}, event={"x": TOKEN, "l": [TOKEN], TOKEN: 1})
    assert marked([render(text, hostile)]) == frozenset()
    assert "\0" not in render(text, hostile)


def test_no_value_in_data_can_be_a_mark() -> None:
    value = render_value("${{ event }}", context(event={"x": [TOKEN, {TOKEN: TOKEN}]}))
    assert value == {"x": ["secret:TOKEN", {"secret:TOKEN": "secret:TOKEN"}]}


def test_half_a_surrogate_pair_does_no_harm() -> None:
    assert render("${{ event.x }}", context(event={"x": "a\ud800b"})) == "a?b"
    assert check_text("${{ '\ud800' }}", NAMES)[0].startswith("invalid expression at col 6: half of a surrogate pair")
