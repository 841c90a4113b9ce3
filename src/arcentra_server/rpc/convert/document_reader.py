"""Read a tree of nodes: what a path of a fault stands for in the text, and how far aliases may blow a document up."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, TypeVar

from arcentra_server.domain.errors import Fault, ValidationError
from arcentra_server.rpc.convert.fields import Findings
from arcentra_server.rpc.convert.yaml_compose import DEEPEST, compose
from arcentra_server.rpc.convert.yaml_nodes import (
    KNOWN_TAGS,
    NULL,
    STR,
    Mapping,
    Node,
    Place,
    PlacedFault,
    Scalar,
    ScalarError,
    is_plain,
    text_of,
    value_of,
    wrong_tag,
)
from arcentra_server.rpc.convert.yaml_nodes import Sequence as List

MOST_EXPANSIONS = 100
LARGEST_EXPANDED = 4 * 1024 * 1024

T = TypeVar("T")


class Reader(Findings):
    """The state of reading one document.

    Faults are found by path; a path has a place when its node was read. Where something of a wrong type stood, what
    is read in its stead has faults of its own, which are not shown.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = compose(text)
        # Without an alias there is nothing to count.
        self._is_aliased = "*" in text
        self._nodes: dict[str, Node] = {}
        self._faults_at: list[Place] = []
        self._replaced: set[str] = set()
        self._moved: dict[str, str] = {}
        self._seen: set[int] = set()
        self._expansions = 0
        self._size = 0

    def visit(self, node: Node, path: str, inner: str = "") -> None:
        """Note where the node of a path is; keep the document, with its aliases expanded, within limits.

        Args:
            node: What is visited.
            path: Its path, for its faults.
            inner: Its own path, where `path` is that of the free-form data that it is in.

        Raises:
            ValidationError: a limit is passed.
        """
        self._nodes.setdefault(inner or path, node)
        if self._is_aliased:
            self._count(node, path)
        if node.tag not in KNOWN_TAGS:
            self.add(path, wrong_tag(node), node.place)

    def _count(self, node: Node, path: str) -> None:
        place = self.place(path)
        if id(node) in self._seen:
            self._expansions += 1
            if self._expansions > MOST_EXPANSIONS:
                raise _error([PlacedFault.of(place, path, f"more than {MOST_EXPANSIONS} values come from aliases")])
        self._seen.add(id(node))
        self._size += 1 + (len(node.value) if isinstance(node, Scalar) else 0)
        if self._size > LARGEST_EXPANDED:
            limit = f"the document has more than {LARGEST_EXPANDED} characters once its aliases are expanded"
            raise _error([PlacedFault.of(place, path, limit)])

    def add(self, path: str, message: str, place: Place | None = None) -> None:
        super().add(path, message)
        self._faults_at.append(place or self.place(path))

    def expected(self, what: str, node: Node, path: str) -> None:
        """Note that something else stands where `what` is wanted."""
        self.add(path, f"expected {what}, found {kind_of(node)}", node.place)
        self._replaced.add(path)

    def is_replaced(self, path: str) -> bool:
        """Answer whether something of a wrong type stands at a path."""
        return path in self._replaced

    def move(self, path: str, to: str) -> None:
        """Note that what checks look for below a path stands below another."""
        self._moved[path] = to

    def scalar(self, convert: Callable[[Scalar], T], node: Scalar, path: str, otherwise: T) -> T:
        try:
            return convert(node)
        except ScalarError as error:
            self.add(path, str(error), node.place)
            return otherwise

    def text_at(self, node: Node, path: str) -> str:
        """Return a string; numbers and booleans are taken as they are written."""
        if isinstance(node, Scalar) and node.tag != NULL:
            if is_plain(node.value):
                return node.value
            return self.scalar(text_of, node, path, "")
        self.expected('a string ("" for an empty one)' if node.tag == NULL else "a string", node, path)
        return ""

    def pairs(self, node: Node, path: str, known: Container[str] = ()) -> Iterator[tuple[str, Node, Node]]:
        """Yield the entries of a mapping: key as it is written, its node, value. What has no such key is a fault.

        A key that is `known` holds nothing that would have to be looked at.
        """
        if not isinstance(node, Mapping):
            self.expected("a mapping", node, path)
            return
        for key, value in node.pairs:
            if isinstance(key, Scalar) and key.value in known:
                yield key.value, key, value
            elif isinstance(key, Scalar) and key.tag != NULL:
                yield self.scalar(text_of, key, path, ""), key, value
            else:
                self.add(path, f"a key is a string, found {kind_of(key)}", key.place)

    def free_pairs(self, node: Node, path: str) -> Iterator[tuple[str, Node]]:
        """Yield the entries of a mapping whose keys are the author's own."""
        first: dict[str, Node] = {}
        for key, key_node, value in self.pairs(node, path):
            if key in first:
                self.add(f"{path}[{key[:80]!r}]", f"is given twice, first in {first[key].place}", key_node.place)
            else:
                first[key] = key_node
                yield key, value

    def items(self, node: Node, path: str) -> Iterator[tuple[Node, str]]:
        """Yield the items of a list, each with its path."""
        if not isinstance(node, List):
            self.expected("a list", node, path)
            return
        for index, item in enumerate(node.items):
            where = f"{path}[{index}]"
            self.visit(item, where)
            yield item, where

    def value(self, node: Node, path: str, inner: str = "", depth: int = 1) -> Any:
        """Return the free-form data of a node that was visited; faults in it have the path of its outermost node."""
        if depth > DEEPEST:
            raise _error([PlacedFault.of(node.place, path, f"nested deeper than {DEEPEST}")])
        inner = inner or path
        if isinstance(node, Scalar):
            is_text = node.tag == STR and is_plain(node.value)
            return node.value if is_text else self.scalar(value_of, node, path, None)
        if isinstance(node, List):
            return [self._inner(item, path, f"{inner}[{index}]", depth) for index, item in enumerate(node.items)]
        return {key: self._inner(item, path, f"{inner}.{key}", depth) for key, item in self.free_pairs(node, path)}

    def _inner(self, node: Node, path: str, inner: str, depth: int) -> Any:
        self.visit(node, path, inner)
        return self.value(node, path, inner, depth + 1)

    def all_faults(self, checked: Sequence[Fault]) -> list[PlacedFault]:
        """Return all faults, in the order of the document: those of reading, and those that were `checked` later."""
        found = {fault.path for fault in self.faults}
        placed = [
            PlacedFault.of(place, fault.path, fault.message)
            for place, fault in zip(self._faults_at, self.faults, strict=True)
        ]
        placed += [fault for fault in map(self.placed, checked) if fault.path not in found]
        return sorted((fault for fault in placed if not self._follows(fault.path)), key=lambda fault: fault.place)

    def placed(self, fault: Fault) -> PlacedFault:
        """Return a fault with its place, its path as the document has it."""
        path = fault.path
        moved = next((parent for parent in _upwards(path) if parent in self._moved), path)
        if moved != path:
            path = self._moved[moved] + path.removeprefix(moved)
        return PlacedFault.of(self.place(path), path, fault.message)

    def finish(self, checked: Sequence[Fault]) -> None:
        """Raise all faults.

        Raises:
            ValidationError: there are any.
        """
        if faults := self.all_faults(checked):
            raise _error(faults)

    def place(self, path: str) -> Place:
        """Return the place of a path; of something that is not there, that of what it is missing in."""
        return next((self._nodes[parent].place for parent in _upwards(path) if parent in self._nodes), Place(1, 1))

    def _follows(self, path: str) -> bool:
        """Answer whether a fault is only of what was read in the stead of something of a wrong type."""
        return any(parent in self._replaced for parent in _upwards(path) if parent != path)


def kind_of(node: Node) -> str:
    """Return what a node is, for people."""
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, List):
        return "a list"
    return repr(node.value[:64]) if isinstance(node, Scalar) and node.tag != NULL else "nothing"


def _upwards(path: str) -> Iterator[str]:
    """Yield a path and those above it: `jobs[0].name`, `jobs[0]`, `jobs`, the root."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    yield ""


def _error(faults: Sequence[PlacedFault]) -> ValidationError:
    error = ValidationError(faults)
    # As editors and compilers have it, the place goes first; the faults keep their paths for programs.
    error.args = ("; ".join(fault.shown for fault in faults),)
    return error
