"""The nodes of a document, YAML or JSON: their places, and what their scalars hold. No types but those of JSON.

Scalars are read by the core schema of YAML 1.2, which JSON is part of: `yes`, `on` and `2024-01-01` are strings.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from arcentra_server.domain.errors import Fault
from arcentra_server.rpc.convert.fields import HOLDS_NUL
from arcentra_server.rpc.convert.struct_fields import EXACT_INTEGERS, number

_TAG = "tag:yaml.org,2002:"
STR, NULL, BOOL, INT, FLOAT, MAP, SEQ = (_TAG + name for name in ("str", "null", "bool", "int", "float", "map", "seq"))
KNOWN_TAGS = frozenset({STR, NULL, BOOL, INT, FLOAT, MAP, SEQ})
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where in a document; both count from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}"


class Node:
    """A value in a document: its type, what it holds, and where it begins.

    Tens of thousands are made at a time, so each sets what it has by itself.
    """

    __slots__ = ("column", "line", "tag")

    tag: str
    line: int
    column: int

    @property
    def place(self) -> Place:
        return Place(self.line, self.column)


class Scalar(Node):
    """A text, as it is written."""

    __slots__ = ("value",)

    def __init__(self, tag: str, line: int, column: int, value: str) -> None:
        self.tag = tag
        self.line = line
        self.column = column
        self.value = value


class Sequence(Node):
    """A list."""

    __slots__ = ("items",)

    def __init__(self, tag: str, line: int, column: int) -> None:
        self.tag = tag
        self.line = line
        self.column = column
        self.items: list[Node] = []


class Mapping(Node):
    """Keys, which may be of any kind here, and values."""

    __slots__ = ("pairs",)

    def __init__(self, tag: str, line: int, column: int) -> None:
        self.tag = tag
        self.line = line
        self.column = column
        self.pairs: list[tuple[Node, Node]] = []


class ScalarError(ValueError):
    """A scalar does not hold what its type or its escapes say."""


@dataclass(frozen=True, slots=True)
class PlacedFault(Fault):
    """A fault of a document. Its message begins with the place, as editors and compilers have it; `text` does not."""

    place: Place
    text: str

    @classmethod
    def of(cls, place: Place, path: str, text: str) -> PlacedFault:
        return cls(path, f"{place}: {text}", place, text)

    @property
    def shown(self) -> str:
        """The fault in one line: place, path, text."""
        return f"{self.place}: {f'{self.path}: ' if self.path else ''}{self.text}"


def wrong_tag(node: Node) -> str:
    """Return what is wrong with a type that is none of the known ones."""
    return f"the tag {node.tag.replace(_TAG, '!!')!r} is not allowed"


def is_plain(text: str) -> bool:
    """Answer whether a text holds nothing that would have to be looked at: as nearly all do."""
    return text.isascii() and "\0" not in text


def text_of(node: Scalar) -> str:
    """Return a scalar's text as it is written.

    Raises:
        ScalarError: it holds half a character, or a NUL.
    """
    text = node.value
    if not text.isascii() and _SURROGATE.search(text):
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
    return _TRUTH.get(node.value) if isinstance(node, Scalar) and node.tag == BOOL else None


def value_of(node: Scalar) -> str | float | bool | None:
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
