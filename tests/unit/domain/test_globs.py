"""Globs: what they match, what is a fault, and that nobody can make them slow."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcentra_server.domain.globs import check_glob, read_globs


@pytest.mark.parametrize(
    ("glob", "matched", "not_matched"),
    [
        ("main", ["main"], ["mainly", "my/main", ""]),
        ("release/*", ["release/1.2", "release/"], ["release", "release/1/2"]),
        ("release/**", ["release/1.2", "release/1/2", "release/"], ["release"]),
        ("*", ["main", ""], ["feature/x"]),
        ("**", ["main", "feature/x", ""], []),
        ("v?.*", ["v1.0", "v2."], ["v10.0", "v/.0"]),
        ("docs/**/*.md", ["docs/a.md", "docs/b/a.md", "docs/b/c/a.md"], ["docs/a.mdx", "docsa.md", "x/docs/a.md"]),
        ("**/README.md", ["README.md", "a/README.md", "a/b/README.md"], ["aREADME.md"]),
        ("**/test/**", ["test/a", "x/test/a", "x/y/test/a/b"], ["tests/a", "xtest/a"]),
        ("a**b", ["ab", "axb", "a/x/b"], ["a", "abc"]),
        ("a/**/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb"]),
        ("**/*", ["a", "a/b"], []),
        ("*.py", ["a.py", ".py"], ["a/b.py", "a.pyc"]),
        ("a+b(c)|d^$", ["a+b(c)|d^$"], ["aab(c)|d^$"]),
    ],
)
def test_what_matches(glob: str, matched: list[str], not_matched: list[str]) -> None:
    globs = read_globs([glob])
    assert [text for text in matched if not globs.passes(text)] == []
    assert [text for text in not_matched if globs.passes(text)] == []


def test_lists() -> None:
    assert read_globs([]).passes("anything/at all")
    some = read_globs(["release/**", "main", "!release/old/**"])
    assert [some.passes(text) for text in ("main", "release/1", "release/old/1", "feature")] == [
        True,
        True,
        False,
        False,
    ]
    none_but = read_globs(["!docs/**"])
    assert [none_but.passes(text) for text in ("src/a.py", "docs/a.md")] == [True, False]
    # The order says nothing: what is excluded is excluded.
    assert not read_globs(["!main", "main"]).passes("main")


@pytest.mark.parametrize(
    ("glob", "fault"),
    [
        ("main", ""),
        ("!release/**", ""),
        ("größe/*", ""),
        ("", "is empty"),
        ("!", "is empty"),
        ("x" * 257, "longer than 256"),
        ("a\nb", "cannot be seen"),
        ("a\0b", "cannot be seen"),
        ("*.{js,ts}", "{ } mean nothing here"),
        ("[ab]", "[ ] mean nothing here"),
        ("a\\*b", "\\ mean nothing here"),
        ("/src/**", "matches nothing"),
        ("./src/**", "matches nothing"),
        ("!!main", "matches nothing"),
        ("docs/", "write docs/** for everything"),
    ],
)
def test_faults(glob: str, fault: str) -> None:
    faults = check_glob(glob)
    assert [bool(faults), fault in "".join(faults)] == [bool(fault), True]


def as_regex(glob: str) -> re.Pattern[str]:
    """A second implementation, by the words of the documentation."""
    parts = re.split(r"(?:(?<=/)|(?<![\s\S]))\*{2,}/|(\*{2,}|\*|\?)", glob)
    text = ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            text += re.escape(part or "")
        elif part is None:
            text += "(?:[\\s\\S]*/)?"
        else:
            text += "[\\s\\S]*" if part.startswith("**") else {"*": "[^/]*", "?": "[^/]"}[part]
    return re.compile(text)


@given(st.text(alphabet="ab/*?", max_size=12), st.text(alphabet="ab/", max_size=10))
@settings(max_examples=1_000)
def test_agrees_with_a_regular_expression(glob: str, text: str) -> None:
    assert read_globs([glob]).passes(text) == (as_regex(glob).fullmatch(text) is not None)


def test_hostile_globs_take_a_step_a_character() -> None:
    """With backtracking this would take longer than the universe has."""
    glob = read_globs(["*a" * 60 + "*b", "**/a" * 60 + "b", "?*" * 100 + "b"])
    assert not glob.passes("a" * 20_000)
    assert not glob.passes("a/" * 10_000)
