"""Read a tree of nodes by field: strict about keys, lenient about scalars, and every fault with its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import yaml

from arcentra_server.domain.errors import Fault, ValidationError
from arcentra_server.rpc.convert.fields import NOT_AVAILABLE, Findings
from arcentra_server.rpc.convert.yaml_nodes import (
    DEEPEST,
    NULL,
    Node,
    Place,
    ScalarError,
    check_tag,
    compose,
    text_of,
    truth_of,
    value_of,
)

MOST_EXPANSIONS = 100
LARGEST_EXPANDED = 4 * 1024 * 1024
_MERGE = "merge keys are not supported: write the keys out, or give a whole value an anchor"

T = TypeVar("T")


class Reader(Findings):
    """The state of reading one document.

    Faults are found by path; a path has a place when its node was read. Where something of a wrong type stood, what
    is read in its stead has faults of its own, which are not shown.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = compose(text)
        self._places: dict[str, Place] = {}
        self._faults_at: list[Place] = []
        self._replaced: set[str] = set()
        self._seen: set[int] = set()
        self._expansions = 0
        self._size = 0

    def visit(self, node: Node, path: str) -> None:
        """Note where the node of a path is; keep the document, with its aliases expanded, within limits.

        Raises:
            ValidationError: a limit is passed.
        """
        place = self._places.setdefault(path, Place.start_of(node))
        if id(node) in self._seen:
            self._expansions += 1
            if self._expansions > MOST_EXPANSIONS:
                raise _error([(place, Fault(path, f"more than {MOST_EXPANSIONS} values come from aliases"))])
        self._seen.add(id(node))
        self._size += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self._size > LARGEST_EXPANDED:
            limit = f"the document has more than {LARGEST_EXPANDED} characters once its aliases are expanded"
            raise _error([(place, Fault(path, limit))])
        if fault := check_tag(node):
            self.add(path, fault, Place.start_of(node))

    def add(self, path: str, message: str, place: Place | None = None) -> None:
        super().add(path, message)
        self._faults_at.append(place or self._place(path))

    def expected(self, what: str, node: Node, path: str) -> None:
        """Note that something else stands where `what` is wanted."""
        self.add(path, f"expected {what}, found {_kind(node)}", Place.start_of(node))
        self._replaced.add(path)

    def scalar(self, convert: Callable[[yaml.ScalarNode], T], node: yaml.ScalarNode, path: str, otherwise: T) -> T:
        try:
            return convert(node)
        except ScalarError as error:
            self.add(path, str(error), Place.start_of(node))
            return otherwise

    def pairs(self, node: Node, path: str) -> Iterator[tuple[str, Place, Node]]:
        """Yield the entries of a mapping: key as it is written, its place, value. What has no such key is a fault."""
        if not isinstance(node, yaml.MappingNode):
            self.expected("a mapping", node, path)
            return
        for key, value in node.value:
            place = Place.start_of(key)
            if isinstance(key, yaml.ScalarNode) and key.tag != NULL:
                yield self.scalar(text_of, key, path, ""), place, value
            else:
                self.add(path, f"a key is a string, found {_kind(key)}", place)

    def free_pairs(self, node: Node, path: str) -> Iterator[tuple[str, Node]]:
        """Yield the entries of a mapping whose keys are the author's own."""
        first: dict[str, Place] = {}
        for key, place, value in self.pairs(node, path):
            if key in first:
                self.add(f"{path}[{key[:80]!r}]", f"is given twice, first in {first[key]}", place)
            else:
                first[key] = place
                yield key, value

    def value(self, node: Node, path: str, depth: int = 1) -> Any:
        """Return the free-form data of a node that was visited; all of it has the place of its outermost node."""
        if depth > DEEPEST:
            raise _error([(Place.start_of(node), Fault(path, f"nested deeper than {DEEPEST}"))])
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(value_of, node, path, None)
        if isinstance(node, yaml.SequenceNode):
            return [self._inner(item, path, depth) for item in node.value]
        return {key: self._inner(value, path, depth) for key, value in self.free_pairs(node, path)}

    def _inner(self, node: Node, path: str, depth: int) -> Any:
        self.visit(node, path)
        return self.value(node, path, depth + 1)

    def finish(self, checked: Sequence[Fault]) -> None:
        """Raise all faults, in the order of the document: those of reading, and those that were `checked` later.

        Raises:
            ValidationError: there are any.
        """
        found = {fault.path for fault in self.faults}
        faults = list(zip(self._faults_at, self.faults, strict=True))
        faults += [(self._place(fault.path), fault) for fault in checked if fault.path not in found]
        shown = [entry for entry in faults if not self._follows(entry[1].path)]
        if shown:
            raise _error(sorted(shown, key=lambda entry: entry[0]))

    def _follows(self, path: str) -> bool:
        """Answer whether a fault is only of what was read in the stead of something of a wrong type."""
        return any(parent in self._replaced for parent in _upwards(path) if parent != path)

    def _place(self, path: str) -> Place:
        """Return the place of a path; of something that is not there, that of what it is missing in."""
        return next((self._places[parent] for parent in _upwards(path) if parent in self._places), Place(1, 1))


class Fields:
    """A mapping with known keys, which may be written in snake_case and in camelCase. A null is an absent value."""

    def __init__(
        self, reader: Reader, node: Node, path: str, known: Collection[str], unavailable: Collection[str] = ()
    ) -> None:
        self.reader = reader
        self.base = path
        self._nodes: dict[str, Node] = {}
        self._read(node, known, unavailable)

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def path(self, name: str) -> str:
        return _child(self.base, name)

    def text(self, name: str) -> str:
        """Return a string; numbers and booleans are taken as they are written."""
        return self._text(self._nodes[name], self.path(name)) if name in self else ""

    def flag(self, name: str, *, default: bool) -> bool:
        if name not in self:
            return default
        value = truth_of(self._nodes[name])
        if value is None:
            self.reader.expected("true or false", self._nodes[name], self.path(name))
            return default
        return value

    def duration(self, name: str) -> int | None:
        return self.reader.duration(self.text(name), self.path(name))

    def texts(self, name: str) -> dict[str, str]:
        """Return a mapping of strings with free keys."""
        entries: dict[str, str] = {}
        if name in self:
            path = self.path(name)
            for key, value in self.reader.free_pairs(self._nodes[name], path):
                where = f"{path}[{key[:80]!r}]"
                self.reader.visit(value, where)
                entries[key] = self._text(value, where)
        return entries

    def data(self, name: str) -> dict[str, Any]:
        """Return free-form data, which is a mapping."""
        if name not in self:
            return {}
        value = self.reader.value(self._nodes[name], self.path(name))
        if isinstance(value, dict):
            return value
        self.reader.expected("a mapping", self._nodes[name], self.path(name))
        return {}

    def list_of_text(self, name: str) -> list[str]:
        return [self._text(node, path) for node, path in self._items(name)]

    def one(self, name: str, known: Collection[str], unavailable: Collection[str] = ()) -> Fields | None:
        """Return a mapping with known keys, None when it is absent."""
        return Fields(self.reader, self._nodes[name], self.path(name), known, unavailable) if name in self else None

    def each(self, name: str, known: Collection[str], unavailable: Collection[str] = ()) -> Iterator[Fields]:
        """Yield each mapping of a list."""
        for node, path in self._items(name):
            yield Fields(self.reader, node, path, known, unavailable)

    def _items(self, name: str) -> Iterator[tuple[Node, str]]:
        if name not in self:
            return
        node, path = self._nodes[name], self.path(name)
        if not isinstance(node, yaml.SequenceNode):
            self.reader.expected("a list", node, path)
            return
        for index, item in enumerate(node.value):
            where = f"{path}[{index}]"
            self.reader.visit(item, where)
            yield item, where

    def _text(self, node: Node, path: str) -> str:
        if isinstance(node, yaml.ScalarNode) and node.tag != NULL:
            return self.reader.scalar(text_of, node, path, "")
        self.reader.expected('a string ("" for an empty one)' if node.tag == NULL else "a string", node, path)
        return ""

    def _read(self, node: Node, known: Collection[str], unavailable: Collection[str]) -> None:
        spellings = {spelling: name for name in (*known, *unavailable) for spelling in (name, _camel(name))}
        first: dict[str, Place] = {}
        for key, place, value in self.reader.pairs(node, self.base):
            name = spellings.get(key)
            if name is None:
                self.reader.add(self.path(key[:80]), _unknown(key, spellings), place)
            elif name in unavailable:
                self.reader.add(self.path(name), NOT_AVAILABLE, place)
            elif name in first:
                self.reader.add(self.path(name), f"is given twice, first in {first[name]}", place)
            else:
                first[name] = place
                self.reader.visit(value, self.path(name))
                if value.tag != NULL:
                    self._nodes[name] = value


def _unknown(key: str, spellings: Collection[str]) -> str:
    if key == "<<":
        return _MERGE
    close = get_close_matches(key, spellings, n=1)
    return f"unknown key; did you mean {close[0]!r}?" if close else f"unknown key {key[:80]!r}"


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def _child(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _upwards(path: str) -> Iterator[str]:
    """Yield a path and those above it: `jobs[0].name`, `jobs[0]`, `jobs`, the root."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    yield ""


def _kind(node: Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "nothing" if node.tag == NULL else repr(node.value[:64])


def _error(placed: Sequence[tuple[Place, Fault]]) -> ValidationError:
    error = ValidationError([Fault(fault.path, f"{place}: {fault.message}") for place, fault in placed])
    # As editors and compilers have it, the place goes first; the faults keep their paths for programs.
    error.args = (
        "; ".join(f"{place}: {f'{fault.path}: ' if fault.path else ''}{fault.message}" for place, fault in placed),
    )
    return error
