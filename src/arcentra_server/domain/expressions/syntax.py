"""The tree of a checked expression, read from what the CEL library serializes (`cel/expr/checked.proto`).

Texts, whole numbers, numbers, truth values, null, lists and maps with texts as keys are all that there is: what else CEL
can write (bytes, unsigned numbers, messages) is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from arcentra_server.domain.expressions import wire

Constant = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Node:
    """A part of an expression. `at`: where it stands, in characters."""

    at: int


@dataclass(frozen=True, slots=True)
class Const(Node):
    """A value that stands there."""

    value: Constant


@dataclass(frozen=True, slots=True)
class Ident(Node):
    """A name: one that expressions may use, or the variable of a macro."""

    name: str


@dataclass(frozen=True, slots=True)
class Select(Node):
    """`operand.name`; `test`: whether it is there, `has(operand.name)`."""

    operand: Node
    name: str
    test: bool


@dataclass(frozen=True, slots=True)
class Call(Node):
    """A function or an operator; of `a.f(b)` the arguments are a and b."""

    function: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class ListOf(Node):
    """`[a, b]`."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MapOf(Node):
    """`{"a": b}`."""

    entries: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True)
class Fold(Node):
    """What a macro becomes: `accumulator` starts as `start`, takes `step` for each item while `condition` holds."""

    variable: str
    source: Node
    accumulator: str
    start: Node
    condition: Node
    step: Node
    result: Node


class Unsupported(ValueError):
    """The expression uses a part of CEL that the language leaves out."""

    def __init__(self, at: int, message: str) -> None:
        self.at = at
        super().__init__(message)


def read(serialized: bytes, source: str) -> Node:
    """Read the serialized form of a checked expression.

    Raises:
        Unsupported: see there.
    """
    # An `Any`: its field 2 is the checked expression, of which 4 is the tree and 5 where its parts stand.
    _, start, end = wire.fields(serialized, 0, len(serialized))[1]
    found = {field: (start, end) for field, start, end in wire.fields(serialized, start, end) if field > 3}
    return _Reader(serialized, source, _positions(serialized, *found[5])).node(*found[4])


def children(node: Node) -> Iterable[Node]:
    """Return the parts that a node is made of, in the order in which they stand."""
    match node:
        case Call(args=args):
            return args
        case Select(operand=operand):
            return (operand,)
        case ListOf(items=items):
            return items
        case MapOf(entries=entries):
            return tuple(part for entry in entries for part in entry)
        case Fold():
            return (node.source, node.start, node.condition, node.step, node.result)
    return ()


def walk(tree: Node) -> list[Node]:
    """Return a node and everything in it."""
    found = [tree]
    for node in found:
        found += children(node)
    return found


def _positions(data: bytes, start: int, end: int) -> dict[int, int]:
    """Return where parts stand, by their ids."""
    positions = {}
    for field, first, last in wire.fields(data, start, end):
        if field == 4 and last - first == 4:
            # Two small numbers, each behind its key: nearly always, and read a hundred times for a large expression.
            positions[data[first + 1]] = data[first + 3]
        elif field == 4:
            entry = wire.fields(data, first, last)
            positions[entry[0][1]] = entry[1][1] if len(entry) > 1 else 0
    return positions


class _Reader:
    """Reads messages of the type `Expr`."""

    def __init__(self, data: bytes, source: str, positions: dict[int, int]) -> None:
        self._data = data
        self._source = source
        self._positions = positions

    def node(self, start: int, end: int) -> Node:
        number = 0
        for field, first, last in wire.fields(self._data, start, end):
            if field == 2:
                number = first
            else:
                return _READERS[field](self, self._positions.get(number, 0), first, last)
        raise ValueError("an expression of no kind")

    def const(self, at: int, start: int, end: int) -> Node:
        field, first, last = wire.fields(self._data, start, end)[0]
        match field:
            case 1:
                return Const(at, None)
            case 2:
                return Const(at, first == 1)
            case 3:
                return Const(at, wire.signed(first))
            case 5:
                return Const(at, wire.double(self._data, first))
            case 6:
                return Const(at, self._text(first, last))
            case 7:
                raise Unsupported(at, "bytes are not supported, write a text")
        raise Unsupported(at, "unsigned numbers are not supported, leave out the u")

    def ident(self, at: int, start: int, end: int) -> Node:
        _, first, last = wire.fields(self._data, start, end)[0]
        return Ident(at, self._text(first, last))

    def select(self, at: int, start: int, end: int) -> Node:
        found = wire.fields(self._data, start, end)
        operand, name = self.node(*found[0][1:]), self._text(*found[1][1:])
        # The library points at the dot, and at the bracket of `has`; people look for the name.
        behind = operand.at + len(operand.name) if isinstance(operand, (Ident, Select)) else 0
        place = self._source.find(name, max(at, behind))
        return Select(place if place >= 0 else at, operand, name, len(found) > 2 and found[2][1] == 1)

    def call(self, at: int, start: int, end: int) -> Node:
        name, args = "", []
        for field, first, last in wire.fields(self._data, start, end):
            if field == 2:
                name = self._text(first, last)
            else:
                args.append(self.node(first, last))
        return Call(at, name, tuple(args))

    def list(self, at: int, start: int, end: int) -> Node:
        return ListOf(
            at,
            tuple(self.node(first, last) for field, first, last in wire.fields(self._data, start, end) if field == 1),
        )

    def map(self, at: int, start: int, end: int) -> Node:
        entries = []
        for field, first, last in wire.fields(self._data, start, end):
            if field == 1:
                raise Unsupported(at, f"{self._text(first, last)} is not a value that expressions can make")
            entry = {part: (low, high) for part, low, high in wire.fields(self._data, first, last)}
            entries.append((self.node(*entry[3]), self.node(*entry[4])))
        return MapOf(at, tuple(entries))

    def fold(self, at: int, start: int, end: int) -> Node:
        found = {field: (first, last) for field, first, last in wire.fields(self._data, start, end)}
        source, init, condition, step, result = (self.node(*found[field]) for field in (2, 4, 5, 6, 7))
        return Fold(at, self._text(*found[1]), source, self._text(*found[3]), init, condition, step, result)

    def _text(self, start: int, end: int) -> str:
        return self._data[start:end].decode()


_READERS: dict[int, Callable[[_Reader, int, int, int], Node]] = {
    3: _Reader.const,
    4: _Reader.ident,
    5: _Reader.select,
    6: _Reader.call,
    7: _Reader.list,
    8: _Reader.map,
    9: _Reader.fold,
}
