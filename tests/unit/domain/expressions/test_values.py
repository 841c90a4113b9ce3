"""What expressions evaluate to, what fails at run time and how it is said, and what bounds an evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from arcentra_server.domain.expressions import ExpressionError, Meter, Outcome, holds, render, render_value
from arcentra_server.domain.expressions.program import compiled
from tests.unit.domain.expressions.places import CONTEXT, context

VALUES: list[tuple[str, Any]] = [
    ("branch", "main"),
    ("variables.tag", "v1.2"),
    ('variables["tag"]', "v1.2"),
    ("env.MODE + '-' + matrix.os", "fast-linux"),
    ("matrix.cores", 4),
    ("matrix.cores + 1", 5),
    ("matrix.python", 3.12),
    ("matrix.slow", False),
    ('needs["unit-tests"].result', "failed"),
    ("needs.build.outputs.version", "3"),
    ("int(needs.build.outputs.version) + 1", 4),
    ("steps.compile.outputs.digest", "sha256:1"),
    ("event.files", ["docs/a.md", "src/b.py"]),
    ("event.labels[1].color", "red"),
    ("event.labels.filter(l, has(l.color)).map(l, l.name)", ["ci"]),
    ("event.files.map(f, f.substring(f.indexOf('/') + 1)).join(', ')", "a.md, b.py"),
    ("event.nothing", None),
    ('{"draft": event.draft}', {"draft": True}),
    ("has(event.pull) ? event.pull : 'none'", "none"),
    ("'needs.build' in needs", False),
    ("'build' in needs && needs.exists(n, needs[n].result == 'failed')", True),
    ("size(event) > 3 && size(branch) == 4", True),
    ("'é😀'.size()", 2),
    ("[-7 / 2, 7 / -2, -7 % 3, 7 % -3]", [-3, -3, -1, 1]),
    ("branch.substring(0, 4) + branch.substring(1, 3) + branch.substring(4, 4)", "mainai"),
    ("'a,b'.split(',')", ["a", "b"]),
    ("string(1.0) + string(0.25) + string(1e21) + string(true)", "10.251e+21true"),
    ("success()", True),
]


@pytest.mark.parametrize(("source", "value"), VALUES)
def test_a_text_that_is_one_expression_keeps_the_type_of_its_value(source: str, value: object) -> None:
    found = render_value(f"${{{{ {source} }}}}", CONTEXT)
    assert (type(found), found) == (type(value), value)


EVENT = "'author', 'draft', 'files', 'kind', 'labels', 'nothing', 'number', 'title'"
IN_QUOTES = "write the number in quotes, or use int(x) or string(x)"
FAILURES = [
    ("steps.compile.outputs.digset", 23, "steps.compile.outputs has no 'digset' (it has 'digest', 'size')"),
    ("needs.gone.result", 7, "needs has no 'gone' (it has 'build', 'unit-tests')"),
    ('needs["unit-tests"].outputs.x', 29, 'needs["unit-tests"].outputs has no \'x\' (it is empty)'),
    ("event.author.name", 14, "event.author has no 'name' (it has 'login')"),
    ("event.title.size", 13, "event.title is a text, and has no 'size'"),
    ("has(event.pull.number)", 11, f"event has no 'pull' (it has {EVENT})"),
    ("event.files[2]", 13, "there is no item 2 in a list of 2"),
    ("event.files['a']", 12, "'[ ]' cannot be applied to a list and a text"),
    ("event[event.number]", 13, "event has names that are texts, not a whole number"),
    ("event.number + event.title", 14, f"'+' cannot be applied to a whole number and a text; {IN_QUOTES}"),
    ("event.number ? 1 : 2", 7, "event.number is a whole number, not a truth value"),
    ("event.nothing && true", 7, "event.nothing is null, not a truth value"),
    ("event.title.all(c, c == '')", 7, "event.title is a text, not a list or a map"),
    ("event.title in event.number", 13, "'in' cannot be applied to a text and a whole number"),
    ("event.labels.exists(l, l.color == 'blue')", 26, "l has no 'color' (it has 'name')"),
    ("event.labels.map(l, l.color)", 23, "l has no 'color' (it has 'name')"),
    ("9223372036854775807 + 1", 21, "the result is beyond 64 bits"),
    ("-event.number * 9223372036854775807", 15, "the result is beyond 64 bits"),
    ("1 / 0", 3, "division by zero"),
    ("1 % 0", 3, "division by zero"),
    ("int('x')", 4, "the text is not a whole number"),
    ("int(1e30)", 4, "the number is beyond 64 bits"),
    ("double('x')", 7, "the text is not a number"),
    ("branch.substring(9)", 17, "the text has 4 characters, and no part from 9 to 4"),
    ("event.labels.join()", 18, "not all items of the list are texts"),
    ('{"a": 1, "a": 2}', 10, "'a' stands twice in { }"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "column", "message"), FAILURES, ids=[failure[0] for failure in FAILURES])
def test_a_failure_names_what_where_and_the_expression(source: str, column: int, message: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        render_value(f"${{{{{source}}}}}", CONTEXT)
    assert str(raised.value) == f'invalid expression at col {column + 3}: {message} in "{source}"'
    with pytest.raises(ExpressionError):
        holds(f"({source}) == 'x' && success()", CONTEXT)


@pytest.mark.parametrize(
    "source",
    [
        "event.pull.number == 1 || true",
        "!(event.pull.number == 1 && false)",
        "event.labels.exists(l, l.color == 'red')",
        "!event.labels.all(l, l.color == 'blue')",
        "has(event.pull) ? event.pull.number == 1 : true",
    ],
)
def test_what_decides_makes_up_for_a_failure_beside_it(source: str) -> None:
    assert holds(source, CONTEXT)


@pytest.mark.parametrize(
    ("text", "holding"),
    [
        ("", {Outcome.SUCCESS}),
        ("   ", {Outcome.SUCCESS}),
        ("success()", {Outcome.SUCCESS}),
        ("failure()", {Outcome.FAILURE}),
        ("cancelled()", {Outcome.CANCELLED}),
        ("always()", set(Outcome)),
        ("!cancelled()", {Outcome.SUCCESS, Outcome.FAILURE, Outcome.SKIPPED}),
        ("failure() && branch == 'main'", {Outcome.FAILURE}),
        ("failure() && branch == 'other'", set()),
        # None of the four: `success()` is meant as well.
        ("branch == 'main'", {Outcome.SUCCESS}),
        ("branch == 'other'", set()),
        ("always() && branch == 'main'", set(Outcome)),
        ("'always()' == 'always()'", {Outcome.SUCCESS}),
    ],
)
def test_a_condition_holds_by_how_things_stand(text: str, holding: set[Outcome]) -> None:
    assert {outcome for outcome in Outcome if holds(text, context(outcome=outcome))} == holding


def test_a_condition_for_success_is_not_evaluated_after_a_failure() -> None:
    text = "steps.later.outputs.x == '1'"
    assert not holds(text, context(outcome=Outcome.FAILURE))
    with pytest.raises(ExpressionError, match="steps has no 'later'"):
        holds(text, CONTEXT)


def test_a_calculation_sees_the_first_4_kib_of_a_text_and_a_name_all_of_it() -> None:
    long = context(variables={"ascii": "a" * 5000, "wide": "é" * 3000}, event={"deep": [{"text": "b" * 5000}]})
    assert render("${{ variables.ascii }}", long) == "a" * 5000
    assert render("${{ size(variables.ascii) }}", long) == "4096"
    assert render("${{ size(variables.wide) }}", long) == "2048"
    assert render("${{ event.deep.map(d, size(d.text))[0] }}", long) == "4096"
    assert render("${{ event.deep[0].text }}", long) == "b" * 5000
    assert holds("event.deep[0].text in event.deep.map(d, d.text)", long)
    assert render("${{ size(event.nul) }}", context(event={"nul": "a\0b"})) == "2"
    # What a calculation has made is not cut.
    assert render("${{ [variables.ascii].map(a, a + a).map(a, size(a + 'b'))[0] }}", long) == "8193"
    assert render("${{ size([branch, variables.ascii + 'b'].filter(a, a != '')[1]) }}", long) == "4097"


def test_a_result_is_at_most_64_kib() -> None:
    largest = 64 * 1024
    assert len(render("${{ variables.x }}", context(variables={"x": "a" * largest}))) == largest
    for text in ("a" * (largest + 1), "é" * (largest // 2 + 1)):
        with pytest.raises(ExpressionError, match="its value is larger than 64 KiB"):
            render("${{ variables.x }}", context(variables={"x": text}))
    with pytest.raises(ExpressionError, match="its value is larger than 64 KiB"):
        render_value("${{ event.l }}", context(event={"l": ["a" * 1000] * 66}))
    with pytest.raises(ExpressionError, match="the text becomes larger than 64 KiB"):
        render("${{ variables.x }} ${{ variables.x }}", context(variables={"x": "a" * (largest // 2)}))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "[variables.x].map(a, a + a + a + a).map(a, a + a + a + a).map(a, a + a + a + a)[0] == ''",
            "text of more than",
        ),
        ("event.l.map(a, variables.x + variables.x + a)[0] == ''", "too much memory"),
        ("event.l.map(a, [a, a]).map(a, a + a + a).map(a, a + a)[0][0] == ''", "too many steps"),
        ("event.l.all(a, a in event.l)", "too many steps"),
        ("event.l.all(a, event.l == event.l)", "too many steps"),
        ("event.l.all(a, !variables.x.contains(variables.y))", "too many steps"),
        ("event.l.all(a, !variables.x.matches('(x+x+)+y'))", "too many steps"),
        ("event.l.all(a, size(variables.x.split('')) > 1)", "too much memory"),
        ("size(variables.x.replace('a', variables.x)) > 0", "text of more than"),
        ("size(variables.x.split('').join(variables.x)) > 0", "text of more than"),
        # What the other side would decide does not matter: the budget is used up.
        ("event.l.all(a, event.l == event.l) || true", "too many steps"),
        ("event.l.exists(a, event.l != event.l) || always()", "too many steps"),
        ("event.l.map(a, variables.x + variables.x + a)[0] == '' || true", "too much memory"),
        ("event.l.exists(a, variables.x + variables.x + a == a) || true", "too much memory"),
    ],
)
def test_an_evaluation_is_bounded(source: str, message: str) -> None:
    hostile = context(
        variables={"x": "a" * 4096, "y": "a" * 2048 + "b"}, event={"l": [f"{n}" * 9 for n in range(5000)]}
    )
    assert compiled(source).problems == ()
    with pytest.raises(ExpressionError, match=message):
        holds(source, hostile)


def test_what_happens_with_thousands_of_items_stays_within_the_bounds() -> None:
    many = context(event={"files": [f"docs/{n}.md" for n in range(3000)]})
    assert holds("event.files.all(f, f.startsWith('docs/'))", many)
    assert holds("event.files.filter(f, f.endsWith('7.md')).size() == 300", many)
    assert holds("event.files.map(f, f + '!').size() == 3000", many)


@pytest.mark.parametrize("source", ["event.l.map(p, [event.l, event.l])", "{'a': event.l.map(p, {'b': event.l})}"])
def test_a_result_is_looked_at_no_further_than_it_may_be_large(source: str) -> None:
    """The evaluation paid for references to one list; what they add up to has millions of parts."""

    class Counting(dict[str, Any]):
        looked = 0

        def items(self) -> Any:
            Counting.looked += 1
            return super().items()

    many = context(event={"l": [Counting(a="b") for _ in range(3_000)]})
    with pytest.raises(ExpressionError, match="its value is larger than 64 KiB"):
        render_value(f"${{{{ {source} }}}}", many)
    assert 0 < Counting.looked < 64 * 1024


def test_the_parts_of_a_result_are_charged() -> None:
    meter = Meter()
    render_value("${{ event.l }}", context(event={"l": [[]] * 9_000}), meter)
    assert 9_000 < meter.spent < 9_100
    meter = Meter()
    render_value("${{ variables.x }}", context(variables={"x": "a" * 60_000}), meter)
    assert 100 < meter.spent < 200


def test_compiling_and_telling_what_there_is_are_charged() -> None:
    meter = Meter()
    assert holds(f"branch == 'main' || branch == '{'a' * 900}'", CONTEXT, meter)
    assert meter.spent > 900
    many = context(variables={f"v{number}": "" for number in range(1_000)}, event={"l": ["x"] * 3_000})
    with pytest.raises(ExpressionError, match="too many steps"):
        holds("event.l.exists(a, variables[a] == '')", many)


@pytest.mark.parametrize(
    ("call", "text", "other", "least", "most"),
    [
        # Each place of a short text may be compared with all of the other.
        ("x.contains(y)", 2_400, 1_201, 720, 800),
        ("x.indexOf(y)", 2_400, 1_201, 720, 800),
        ("x.indexOf(y, 1200)", 2_400, 1_201, 0, 50),
        ("x.replace(y, 'z')", 2_400, 1_201, 1_440, 1_600),
        ("x.split(y)", 2_400, 1_201, 1_440, 1_600),
        ("x.contains(y)", 4_096, 99, 197, 300),
        ("x.contains(y)", 4_096, 3_000, 1_645, 1_800),
        # Two long ones: the search is linear, but perhaps behind what was found.
        ("x.contains(y)", 4_096, 600, 0, 100),
        ("x.indexOf(y)", 4_096, 600, 0, 100),
        ("x.split(y)", 4_096, 600, 1_140, 1_700),
        ("x.replace(y, 'z')", 4_096, 600, 1_140, 1_700),
        # What everybody writes costs next to nothing.
        ("x.contains(y)", 4_096, 8, 0, 100),
        ("x.startsWith(y)", 2_400, 1_201, 0, 50),
    ],
)
def test_a_search_is_charged_for_what_it_takes_at_worst(
    call: str, text: int, other: int, least: int, most: int
) -> None:
    half = "a" * (other // 2)
    texts = {"x": "a" * text, "y": f"{half}b{half}"[:other]}
    meter = Meter()
    source = call.replace("x.", "variables.x.").replace("(y", "(variables.y")
    value = render_value(f"${{{{ {source} }}}}", context(variables=texts), meter)
    assert value in (False, -1, texts["x"], [texts["x"]])
    assert least <= meter.spent - 5 * len(source) <= most


def test_what_calculations_have_made_is_charged_as_well() -> None:
    """32 KiB, searched for nearly all of it."""
    source = "[variables.x + variables.x].map(t, t + t + t + t).exists(t, t.contains(t.substring(1000) + 'b'))"
    meter = Meter()
    assert not holds(source, context(variables={"x": "a" * 4096}), meter)
    assert meter.spent > 16_000


@pytest.mark.parametrize("source", ["double(event.n)", "'a'.split('a', event.n)", "1.0 < double(event.n)"])
def test_numbers_beyond_everything_are_errors_of_the_expression(source: str) -> None:
    with pytest.raises(ExpressionError, match="a number is too large"):
        render_value(f"${{{{ {source} }}}}", context(event={"n": 10**400}))
    with pytest.raises(ExpressionError, match="far too large"):
        render_value("${{ event }}", context(event={"n": 10**400}))


@pytest.mark.parametrize("value", ["null", "event.files", "event.author"])
def test_what_is_no_single_value_cannot_stand_in_a_text(value: str) -> None:
    with pytest.raises(ExpressionError, match="cannot stand in a text: use a field or item of it"):
        render(f"x ${{{{ {value} }}}}", CONTEXT)
