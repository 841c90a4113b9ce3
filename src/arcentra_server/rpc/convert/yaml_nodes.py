"""YAML and JSON text as a tree of nodes with their places: limited, and with no types but those of JSON.

Scalars are read by the core schema of YAML 1.2, which JSON is part of: `yes`, `on` and `2024-01-01` are strings.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

import yaml

from arcentra_server.domain.errors import ValidationError
from arcentra_server.rpc.convert.definition import EXACT_INTEGERS, number
from arcentra_server.rpc.convert.fields import HOLDS_NUL

LARGEST_DOCUMENT = 1024 * 1024
DEEPEST = 32

Node = yaml.Node

_TAG = "tag:yaml.org,2002:"
STR, NULL, BOOL, INT, FLOAT = (_TAG + name for name in ("str", "null", "bool", "int", "float"))
_KNOWN_TAGS = frozenset({STR, NULL, BOOL, INT, FLOAT, _TAG + "map", _TAG + "seq"})
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where in a document; both count from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"

    @classmethod
    def of(cls, mark: yaml.Mark) -> Place:
        return cls(mark.line + 1, mark.column + 1)

    @classmethod
    def start_of(cls, node: Node) -> Place:
        return cls.of(node.start_mark)


class ScalarError(ValueError):
    """A scalar does not hold what its type or its escapes say."""


class _Loader(yaml.SafeLoader):
    """Composes nodes; stops at the deepest nesting, as the composer calls itself for each level."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  the base's protocol

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        if self._depth >= DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # so are all of PyYAML's parser
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {DEEPEST}", problem_mark=mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


for _tag, _pattern, _first in (
    (NULL, r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    (BOOL, r"(?:true|True|TRUE|false|False|FALSE)\Z", list("tTfF")),
    (INT, r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z", list("-+0123456789")),
    (
        FLOAT,
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def compose(text: str) -> Node:
    """Return the root node of a document.

    Raises:
        ValidationError: the text is too large, empty, not YAML, too deep, or more than one document.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > LARGEST_DOCUMENT:
        raise ValidationError.at("document", f"has {size} bytes, more than {LARGEST_DOCUMENT}")
    if _is_json(text):
        # Between the tokens of JSON a tab is a space, which YAML does not know; inside its strings there is none.
        text = text.replace("\t", " ")
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        message = f"{place}: the character U+{ord(text[error.position]):04X} is not allowed in YAML"
        raise ValidationError.at("", message) from error
    except (ValueError, OverflowError) as error:
        raise ValidationError.at("", "not valid YAML: an escape or a version in it is out of range") from error
    finally:
        if loader is not None:
            loader.dispose()
    if root is None:
        raise ValidationError.at("document", "is empty")
    return root


def check_tag(node: Node) -> str | None:
    """Return what is wrong with the type that a node was given, or None."""
    if node.tag in _KNOWN_TAGS:
        return None
    return f"the tag {node.tag.replace(_TAG, '!!')!r} is not allowed"


def text_of(node: yaml.ScalarNode) -> str:
    """Return a scalar's text as it is written.

    Raises:
        ScalarError: it holds half a character, or a NUL.
    """
    text: str = node.value
    if _SURROGATE.search(text):
        # JSON writes characters beyond the first 65536 as two escapes.
        try:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError as error:
            raise ScalarError("holds half of a surrogate pair") from error
    if "\0" in text:
        raise ScalarError(HOLDS_NUL)
    return text


def truth_of(node: Node) -> bool | None:
    """Return a boolean, None when the node is something else."""
    return _TRUTH.get(node.value) if node.tag == BOOL else None


def value_of(node: yaml.ScalarNode) -> str | float | bool | None:
    """Return a scalar as JSON has it.

    Raises:
        ScalarError: it is not what its tag says, or a number that would not reach the agent as it is written.
    """
    text = text_of(node)
    if node.tag == NULL:
        return None
    if node.tag == BOOL:
        if text not in _TRUTH:
            raise ScalarError(f"{text[:64]!r} is not a boolean: write true or false")
        return _TRUTH[text]
    if node.tag not in (INT, FLOAT):
        return text
    try:
        value = _integer(text) if node.tag == INT else float(text)
    except ValueError:
        value = math.nan
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ScalarError(f"{text[:64]!r} is not a number as JSON has it")
        return number(value)
    if abs(value) > EXACT_INTEGERS:
        raise ScalarError("the number is beyond 2^53 and would lose digits: write it in quotes")
    return value


def _integer(text: str) -> int:
    return int(text, 0) if text.startswith(("0x", "0o")) else int(text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _syntax_error(error: yaml.MarkedYAMLError) -> ValidationError:
    problem = ", ".join(part for part in (error.context, error.problem) if part)
    mark = error.problem_mark or error.context_mark
    place = f"{Place.of(mark)}: " if mark else ""
    return ValidationError.at("", f"{place}not valid YAML: {problem}")
