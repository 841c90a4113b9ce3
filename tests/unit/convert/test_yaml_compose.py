"""Both parsers make the same nodes of the same text."""

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from arcentra_server.domain.errors import ValidationError
from arcentra_server.rpc.convert import yaml_compose
from arcentra_server.rpc.convert.yaml_compose import LARGEST_EXPLAINED, compose
from arcentra_server.rpc.convert.yaml_nodes import Mapping, Node, PlacedFault, Scalar, Sequence
from tests.support.documents import document_of
from tests.support.specs import LARGE, SPECS


def shape(node: Node | None, seen: tuple[int, ...] = ()) -> Any:
    """Return a tree as plain data, with all that a node says; an alias to what it is in ends it."""
    if node is None or id(node) in seen:
        return None
    seen = (*seen, id(node))
    if isinstance(node, Scalar):
        if not node.value:
            # Where a value is that is not there, they see differently.
            return (node.tag, "")
        inner: Any = node.value
    elif isinstance(node, Sequence):
        inner = [shape(item, seen) for item in node.items]
    else:
        assert isinstance(node, Mapping)
        inner = [(shape(key, seen), shape(value, seen)) for key, value in node.pairs]
    return (node.tag, node.line, node.column, inner)


def by_pyyaml(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        return shape(yaml_compose._composed(loader))
    finally:
        loader.dispose()


TEXTS = [
    "a: 1\nb: [x, 'y', \"z\\u00e9\", ~, null, true, 0x10, 0o7, 1e3, .5, -.inf, .NaN, +1, -, 1.]\n",
    "- &a {b: *a}\n- *a\n- !!str 1\n- ! 2\n- !custom 3\n- ''\n-\n",
    '? [complex]\n: |\n  block\n   more\n? >-\n  folded\n  text\n\n  x\n: "multi\n  line"\n',
    "%YAML 1.1\n---\né: \u2028 x # comment\n...\n",
    "---\n",
    "{a: {b: {c: [[[]]]}}, }",
    "a:\n- 1\n-   - 2\n    - 3\nb:\r\n  c: \U0001f600\r\n  d: e\n",
]


@pytest.mark.parametrize("text", TEXTS)
def test_both_parsers_agree(text: str) -> None:
    assert shape(compose(text)) == by_pyyaml(text)


@LARGE
@given(SPECS)
def test_both_parsers_agree_on_definitions(spec: Any) -> None:
    text = document_of(spec)
    assert shape(compose(text)) == by_pyyaml(text)


@settings(max_examples=400)
@given(st.text("{}[]:,-&*|>'\"%@#? \n\tab1~.", max_size=40))
def test_what_libyaml_takes_pyyaml_takes_alike(text: str) -> None:
    try:
        expected = by_pyyaml(text)
    except (yaml.YAMLError, ValueError):
        return
    assert shape(compose(text) if expected else None) == expected


def large(tail: str) -> str:
    return "# " + "x" * LARGEST_EXPLAINED + "\n" + tail


FAULTS = [
    ("a: [1", "line 3, column 1", "while parsing a flow sequence, did not find expected ',' or ']'"),
    ("a: *b", "line 2, column 4", "found undefined alias 'b'"),
    ("- &a 1\n- &a 2", "line 3, column 3", "found the anchor 'a' twice"),
    ("a\n---\nb", "line 3, column 1", "expected a single document in the stream, but found another document"),
    ("[" * 40, "line 2, column 33", "nested deeper than 32"),
]


@pytest.mark.parametrize(("text", "place", "problem"), FAULTS)
def test_a_large_text_is_not_parsed_twice(text: str, place: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_compose, "_explained", lambda _: pytest.fail("parsed twice"))
    with pytest.raises(ValidationError) as caught:
        compose(large(text))
    (fault,) = caught.value.faults
    assert isinstance(fault, PlacedFault)
    assert (str(fault.place), fault.text) == (place, f"not valid YAML: {problem}")


def test_a_character_that_yaml_does_not_know_is_named() -> None:
    with pytest.raises(ValidationError, match=r"^line 2, column 3: the character U\+0001 is not allowed in YAML$"):
        compose("a: 1\nb:\x01")
