"""What is compiled without the library, how the library's answer is read, and what its words become."""

from __future__ import annotations

from itertools import product

import pytest

from arcentra_server.domain.expressions import wire
from arcentra_server.domain.expressions.complaints import complaints
from arcentra_server.domain.expressions.errors import Problem
from arcentra_server.domain.expressions.program import compiled
from arcentra_server.domain.expressions.references import ROOTS, plain
from arcentra_server.domain.expressions.syntax import Call, Const, Fold, Ident, ListOf, MapOf, Select

NAMES = ("a", "_b1", "in", "result", "outputs", "namespace")
SOURCES = [
    ".".join((root, *names)) for root in (*ROOTS, "x") for size in range(4) for names in product(NAMES, repeat=size)
]


def test_names_and_dots_are_read_as_the_library_does() -> None:
    read = [source for source in SOURCES if plain(source) is not None]
    assert {source.partition(".")[0] for source in read} == {*ROOTS} - {"secrets"}
    for source in read[:: max(1, len(read) // 150)]:
        mine, theirs = compiled(source), compiled(f"({source})")  # in brackets it is not plain
        assert (mine.problems, mine.type, mine.is_plain) == (theirs.problems, theirs.type, theirs.is_plain)
        assert [(one.root, [step.name for step in one.path]) for one in mine.references] == [
            (one.root, [step.name for step in one.path]) for one in theirs.references
        ]


def test_a_tree_is_read_from_what_the_library_serializes() -> None:
    assert compiled("branch == 'a' ? [1, -2, 0.5] : [null, true, false]").tree == Call(
        14,
        "_?_:_",
        (
            Call(7, "_==_", (Ident(0, "branch"), Const(10, "a"))),
            ListOf(16, (Const(17, 1), Const(20, -2), Const(24, 0.5))),
            ListOf(31, (Const(32, None), Const(38, True), Const(44, False))),
        ),
    )
    assert compiled("{'é': has(event . x.y)}['é']").tree == Call(
        23,
        "_[_]",
        (
            MapOf(0, ((Const(1, "é"), Select(20, Select(18, Ident(10, "event"), "x", test=False), "y", test=True)),)),
            Const(24, "é"),
        ),
    )
    tree = compiled("event.a.filter(i, i > 300)").tree
    assert isinstance(tree, Fold)
    assert (tree.at, tree.variable, tree.source) == (14, "i", Select(6, Ident(0, "event"), "a", test=False))
    assert isinstance(tree.step, Call)
    assert tree.step.args[0] == Call(20, "_>_", (Ident(18, "i"), Const(22, 300)))


def test_what_an_expression_names_is_found_behind_macros_and_brackets() -> None:
    program = compiled("needs['a.b'].outputs.x + variables[branch] == '' || event.l.exists(env, env == job.id)")
    assert [(one.root, [step.name for step in one.path]) for one in program.references] == [
        ("needs", ["a.b", "outputs", "x"]),
        ("variables", []),
        ("branch", []),
        ("event", ["l"]),
        ("job", ["id"]),
    ]
    assert {"_||_", "_==_", "_+_", "_[_]"} <= program.calls
    assert not program.is_plain


def test_wire_fields() -> None:
    data = b"\x08\xac\x02\x12\x02hi\x19\x00\x00\x00\x00\x00\x00\xf8\x3f\xa2\x06\x00\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    found = wire.fields(data, 0, len(data))
    assert [(field, data[start:end]) for field, start, end in found[1:4]] == [(2, b"hi"), (3, data[8:16]), (100, b"")]
    assert found[0] == (1, 300, 300)
    assert wire.double(data, found[2][1]) == 1.5
    assert wire.signed(found[4][1]) == -1
    with pytest.raises(ValueError, match="wire type 3 is not known"):
        wire.fields(b"\x0b\x00", 0, 2)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("CANCELLED: Expression recursion limit exceeded. limit: 32 [CANCELLED]", Problem(0, "nested too deeply")),
        ("INTERNAL: something new [INTERNAL]", Problem(0, "something new")),
        (
            "INVALID_ARGUMENT: ERROR: <input>:1:3: something new\n | abc\n | ..^ [INVALID_ARGUMENT]",
            Problem(2, "something new"),
        ),
        ("INVALID_ARGUMENT: ERROR: <input>:-1:-1: something new", Problem(0, "something new")),
        ("ERROR: <input>:1:3: Syntax error: Missing ':' at '.'", Problem(2, "syntax error: Missing ':' at '.'")),
    ],
)
def test_what_the_library_says_in_other_words_is_passed_on(said: str, problem: Problem) -> None:
    assert complaints("abc", said) == [problem]
