"""What is wrong with an expression is said in one line, with its column, when a definition is saved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arcentra_server.domain.expressions import ExpressionError, check_condition, check_text, holds, render
from arcentra_server.domain.expressions.program import compiled
from tests.unit.domain.expressions.places import CONDITION, CONTEXT, NAMES

BOMB = "[branch + branch]" + ".map(a, a + a)" * 18 + "[0].size() > 0"
RESULTS = "there is no such result; results are success, partial, failed, timeout, cancelled, skipped"
ALONE = "a secret can only stand alone, as ${{ secrets.NAME }}: it cannot be part of a calculation"
OR_RESULT = "for an output, or .result"
STEPS = "'compile', 'source'"
RUN = "'id', 'namespace', 'pipeline', 'pipeline_id', 'trigger', 'triggered_by'"
IN_QUOTES = "write the number in quotes, or use int(x) or string(x)"
MACROS = "all, exists, exists_one, map and filter are macros"

FAULTS = [
    # names
    ("variabels.tag == 'a'", 1, "undeclared reference to 'variabels' (did you mean 'variables'?)"),
    ("true || nothing", 9, "undeclared reference to 'nothing'"),
    ("variables.tga == 'a'", 11, "there is no variable 'tga' (did you mean 'tag'?)"),
    ('variables["zone"] == ""', 11, "there is no variable 'zone' (known are 'region', 'tag')"),
    ("has(variables.zone)", 15, "there is no variable 'zone' (known are 'region', 'tag')"),
    ("env.mode == ''", 5, "there is no environment variable 'mode' (known are 'MODE', 'region', 'tag')"),
    ("matrix.arch == 'arm'", 8, "the matrix has no 'arch' (known are 'cores', 'os', 'python', 'slow')"),
    ("run.number == '1'", 5, f"run has no 'number' (known are {RUN})"),
    ("job.attempts == '1'", 5, "job has no 'attempts' (did you mean 'attempt'?)"),
    ("step.names == ''", 6, "step has no 'names' (did you mean 'name'?)"),
    ("needs.biuld.result == 'success'", 7, "the job does not depend on a job 'biuld' (did you mean 'build'?)"),
    ("needs.build.outputs.vresion == ''", 21, "job 'build' has no output 'vresion' (did you mean 'version'?)"),
    ('needs["unit-tests"].outputs.x == ""', 29, "job 'unit-tests' has no output 'x' (there are none)"),
    ("needs.build.version == ''", 13, f"needs.build has no 'version'; write needs.build.outputs.version {OR_RESULT}"),
    ("needs.build.result.code == ''", 20, "a text has no field 'code'"),
    ("needs.build.outputs.version.major == ''", 29, "a text has no field 'major'"),
    ("steps.deploy.result == 'success'", 7, f"there is no step 'deploy' before this place (known are {STEPS})"),
    ("steps.compile.status == ''", 15, f"steps.compile has no 'status'; write steps.compile.outputs.status {OR_RESULT}"),
    ("event.files.exists(f, f == g)", 28, "undeclared reference to 'g'"),
    ("int == 1", 5, "'==' cannot be applied to type(int) and a whole number"),
    # secrets
    ("secrets.TOKEN == ''", 1, ALONE),
    ("branch == secrets.TOKEN", 11, ALONE),
    # functions
    ("sucess()", 1, "there is no function 'sucess' (did you mean 'success'?)"),
    ("branch.startswith('a')", 8, "there is no function 'startswith' (did you mean 'startsWith'?)"),
    ("branch.format([1]) == ''", 8, "there is no function 'format'"),
    ("timestamp('2026-01-01T00:00:00Z') == 1", 1, "there is no function 'timestamp'"),
    ("cel.bind(x, 1, x == 1)", 5, "there is no function 'bind'"),
    # types
    ("branch", 1, "a condition must be a truth value, and this is a text: compare it"),
    ("event.draft", 1, "a condition must be a truth value, and this can be anything: compare it"),
    ("size(branch) + 1", 1, "a condition must be a truth value, and this is a whole number: compare it"),
    ("branch == 1", 8, f"'==' cannot be applied to a text and a whole number; {IN_QUOTES}"),
    ("1 < 1.5", 3, "'<' cannot be applied to a whole number and a number with a fraction; write 1.0 for 1, or double(x)"),
    ("branch.size", 7, "a text has no fields"),
    ("branch.all(c, c == 'a')", 1, "a text is nothing to go through, that is a list or a map"),
    ("size(1) == 1", 5, "'size' cannot be applied to a whole number"),
    ("needs.build.outputs.version > 3", 31, "results and outputs are texts: write it in quotes, or use int(...)"),
    ("steps.compile.outputs.size == size(branch)", 35, "results and outputs are texts: use int(...) for both sides"),
    ("needs.build.result == 'sucess'", 23, RESULTS),
    ("steps.compile.result in ['failed', 'broken']", 36, RESULTS),
    # syntax
    ("branch == ", 11, "syntax error: it ends too early"),
    ("branch = 'a'", 8, "syntax error at '='; compare with =="),
    ("branch == 'a' and true", 15, "syntax error at 'and'"),
    ("branch == 'a", 11, "syntax error: a text in quotes is not closed, or holds an escape that there is not"),
    ("needs.unit-tests.result == 'failed'", 1, 'a name with a - needs brackets and quotes: needs["unit-tests"]'),
    ("if", 1, "'if' is a reserved word"),
    ("${{ branch == 'a' }}", 1, "a condition is an expression already: leave out `${{` and `}}`"),
    # what the language leaves out
    ("1u == 1u", 1, "unsigned numbers are not supported, leave out the u"),
    ("b'a' == b'a'", 1, "bytes are not supported, write a text"),
    ("{1: true}[1]", 2, "names in { } must be texts in quotes"),
    ("google.protobuf.Duration{seconds: 1} == google.protobuf.Duration{}", 1,
     "google.protobuf.Duration is not a value that expressions can make"),
    # limits
    ("branch == '" + "a" * 1013 + "'", 1, "1025 bytes long, more than 1024"),
    ("branch == '" + "é" * 507 + "'", 1, "1026 bytes long, more than 1024"),
    ("true" + " && true" * 50, 1, "101 parts, more than 100; a macro such as exists counts for ten"),
    ("[1].map(a, a).map(b, b).map(c, c).map(d, d).size() > 0", 38, f"4 macros, more than 3: {MACROS}"),
    ("[1].all(a, [2].all(b, a == b))", 8, f"a macro in a macro: {MACROS}"),
    ("(" * 40 + "true" + ")" * 40, 1, "nested too deeply"),
    ("branch" + " + branch" * 40 + " == ''", 1, "nested too deeply"),
    ("recursion == ''", 1, "undeclared reference to 'recursion'"),
    ("branch.matches(variables.tag)", 26, "the pattern of matches must be a text in quotes"),
    ("branch.matches('(')", 16, "invalid regular expression: missing ): ("),
    ("branch.matches('(a{20}){20}')", 16, "the pattern repeats more than 100 times"),
    ("branch.matches('" + "a" * 257 + "')", 16, "the pattern is longer than 256 characters"),
    (r"branch.matches('\\pL')", 16, r"\p is not supported in patterns"),
]  # fmt: skip


def shown(expression: str) -> str:
    return expression if len(expression) <= 100 else f"{expression[:97]}..."


@pytest.mark.parametrize(("text", "column", "message"), FAULTS, ids=[fault[0][:40] for fault in FAULTS])
def test_a_fault_names_what_where_and_the_expression(text: str, column: int, message: str) -> None:
    assert check_condition(text, CONDITION) == [
        f'invalid expression at col {column}: {message} in "{shown(" ".join(text.split()))}"'
    ]


@pytest.mark.parametrize("text", [fault[0] for fault in FAULTS if compiled(fault[0]).problems])
def test_a_faulty_expression_is_never_evaluated(text: str) -> None:
    with pytest.raises(ExpressionError):
        holds(text, CONTEXT)


def test_a_bomb_is_refused() -> None:
    """In the library alone it takes 2 s and 1 GB, and nothing else runs meanwhile."""
    assert [fault.partition(" in ")[0] for fault in check_condition(BOMB, CONDITION)] == [
        "invalid expression at col 1: 189 parts, more than 100; a macro such as exists counts for ten",
        f"invalid expression at col 64: 18 macros, more than 3: {MACROS}",
    ]


def test_all_faults_of_an_expression_are_named() -> None:
    faults = check_condition("variables.a == env.b && needs.c.result == 'failed'", CONDITION)
    assert [fault.partition(":")[0] for fault in faults] == [f"invalid expression at col {at}" for at in (11, 20, 31)]
    faults = check_condition("nothing == nowhere", CONDITION)
    assert [fault.partition(":")[0] for fault in faults] == [f"invalid expression at col {at}" for at in (1, 12)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "success()",
        "always()",
        "failure() || cancelled()",
        "branch == 'main' && variables.tag.startsWith('v')",
        'needs["unit-tests"].result != "failed" && needs.build.outputs.version != ""',
        "int(needs.build.outputs.version) > 2",
        "steps.compile.outputs.anything == ''",
        "event.draft == true",
        "!event.draft",
        "has(event.pull.number) && event.pull.number > 3",
        "event.files.exists(f, f.startsWith('docs/')) && event.files.all(f, f != '')",
        "event.files.filter(f, f.endsWith('.md')).map(f, size(f)).exists(n, n > 3)",
        "matrix.python == 3.12",
        "variables[matrix.os] == ''",
        "'tag' in variables",
        "branch.matches('^release/[0-9]+$')",
        "step.name == 'unit' && job.attempt == '1' && run.trigger == 'manual' && commit != ''",
        "env.MODE == 'fast'\n  // why\n  && true",
    ],
)
def test_these_are_fine(text: str) -> None:
    assert check_condition(text, CONDITION) == []


def test_a_place_decides_what_can_be_named() -> None:
    message = "values of env cannot use env; name what it is made of, such as variables.NAME"
    assert check_text("${{ env.MODE }}", replace(NAMES, env=None)) == [
        f'invalid expression at col 5: {message} in "env.MODE"'
    ]
    assert check_text("${{ secrets.TOKEN }}", NAMES) == []
    assert check_text("${{ secrets.TOKEN }}", replace(NAMES, secrets=False)) == [
        'invalid expression at col 5: secrets cannot be used here in "secrets.TOKEN"'
    ]
    assert check_text("${{ success() ? 'a' : 'b' }}", NAMES) == [
        "invalid expression at col 5: success() can only be used in when in \"success() ? 'a' : 'b'\""
    ]
    assert check_text("${{ step.name }}", replace(NAMES, in_step=False)) == [
        'invalid expression at col 5: there is no step here; step can be used in steps in "step.name"'
    ]
    assert check_text("${{ matrix.os }}", replace(NAMES, matrix=frozenset())) == [
        'invalid expression at col 5: the job has no matrix in "matrix.os"'
    ]
    assert check_text("${{ env.MODE }}", replace(NAMES, hidden_env={"MODE": "is hidden"})) == [
        "invalid expression at col 9: 'MODE' is hidden in \"env.MODE\""
    ]


def test_columns_are_those_of_the_text_around_it() -> None:
    assert check_text("one ${{ branch }} two ${{ brunch }}", NAMES) == [
        "invalid expression at col 27: undeclared reference to 'brunch' (did you mean 'branch'?) in \"brunch\""
    ]
    assert check_text("one\ntwo ${{\n  branch + 1 }}", NAMES)[0].startswith("invalid expression at line 3, col 10: '+'")
    assert check_condition("branch ==\n  brunch", CONDITION)[0].startswith("invalid expression at line 2, col 3: ")


def test_the_error_carries_its_place() -> None:
    with pytest.raises(ExpressionError) as raised:
        render("one\ntwo ${{ 1 / 0 }}", CONTEXT)
    assert (raised.value.line, raised.value.column) == (2, 11)
    assert str(raised.value) == 'invalid expression at line 2, col 11: division by zero in "1 / 0"'


def test_a_message_is_one_printable_line_whatever_the_expression_holds() -> None:
    fault = check_condition("nothing +\n\t'\x07\u2028'", CONDITION)[0]
    assert fault.isprintable()
    assert fault.endswith("in \"nothing + '? '\"")
