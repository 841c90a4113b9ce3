"""A mapping of a document by its known keys: strict about keys, lenient about scalars. A null is an absent value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from arcentra_server.rpc.convert.document_reader import Reader
from arcentra_server.rpc.convert.shapes import Shape, unknown_key
from arcentra_server.rpc.convert.yaml_nodes import INT, NULL, Node, Scalar, truth_of, value_of

MOST_HINTS = 100


class Fields:
    """See the module."""

    def __init__(self, reader: Reader, node: Node, path: str, shape: Shape) -> None:
        self.findings = reader
        self.base = path
        self.shape = shape
        self._nodes: dict[str, Node] = {}
        self._read(node)

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def path(self, name: str) -> str:
        return f"{self.base}.{name}" if self.base else name

    def text(self, name: str) -> str:
        """Return a string; numbers and booleans are taken as they are written."""
        node = self._nodes.get(name)
        return self.findings.text_at(node, self.path(name)) if node is not None else ""

    def flag(self, name: str, *, default: bool = False) -> bool:
        node = self._nodes.get(name)
        if node is None:
            return default
        value = truth_of(node)
        if value is None:
            self.findings.expected("true or false", node, self.path(name))
            return default
        return value

    def number(self, name: str, *, default: int = 0) -> int:
        node = self._nodes.get(name)
        if node is None:
            return default
        if not isinstance(node, Scalar) or node.tag != INT:
            self.findings.expected("a whole number", node, self.path(name))
            return default
        return self.findings.scalar(_whole, node, self.path(name), default)

    def duration(self, name: str) -> int | None:
        node = self._nodes.get(name)
        return self.findings.duration(self.text(name), self.path(name)) if node is not None else None

    def texts(self, name: str) -> dict[str, str]:
        """Return a mapping of strings with free keys."""
        entries: dict[str, str] = {}
        for key, path, node in self.entries(name):
            entries[key] = self.findings.text_at(node, path)
        return entries

    def entries(self, name: str) -> Iterator[tuple[str, str, Node]]:
        """Yield the entries of a mapping with free keys: key, path, value."""
        node = self._nodes.get(name)
        if node is not None:
            path = self.path(name)
            for key, value in self.findings.free_pairs(node, path):
                where = f"{path}[{key[:80]!r}]"
                self.findings.visit(value, where)
                yield key, where, value

    def data(self, name: str) -> dict[str, Any]:
        """Return free-form data, which is a mapping."""
        node = self._nodes.get(name)
        if node is None:
            return {}
        value = self.findings.value(node, self.path(name))
        if isinstance(value, dict):
            return value
        self.findings.expected("a mapping", node, self.path(name))
        return {}

    def list_of_text(self, name: str) -> list[str]:
        return [self.findings.text_at(node, path) for node, path in self.items(name)]

    def one(self, name: str, shape: Shape | None = None) -> Fields | None:
        """Return a mapping with known keys, by default those of its shape; None when it is absent."""
        shape = shape or self.shape.keys[name].of
        node = self._nodes.get(name)
        return Fields(self.findings, node, self.path(name), shape) if node is not None and shape else None

    def each(self, name: str) -> Iterator[Fields]:
        """Yield each mapping of a list."""
        shape = self.shape.keys[name].of
        for node, path in self.items(name):
            if shape is not None:
                yield Fields(self.findings, node, path, shape)

    def names(self) -> Iterator[str]:
        """Yield the keys that are there."""
        return iter(self._nodes)

    def node(self, name: str) -> Node | None:
        """Return a value as it is, None when it is absent."""
        return self._nodes.get(name)

    def items(self, name: str) -> Iterator[tuple[Node, str]]:
        """Yield the items of a list, each with its path."""
        node = self._nodes.get(name)
        return self.findings.items(node, self.path(name)) if node is not None else iter(())

    def _read(self, node: Node) -> None:
        spellings = self.shape.spellings
        first: dict[str, Node] = {}
        for key, key_node, value in self.findings.pairs(node, self.base, spellings):
            name = spellings.get(key)
            if name is None:
                # To find what was meant takes time, which a document full of faults is not worth.
                hinted = spellings if len(self.findings.faults) < MOST_HINTS else ()
                self.findings.add(self.path(key[:80]), unknown_key(key, hinted), key_node.place)
            elif name in first:
                self.findings.add(self.path(name), f"is given twice, first in {first[name].place}", key_node.place)
            else:
                first[name] = key_node
                self.findings.visit(value, self.path(name))
                if value.tag != NULL:
                    self._nodes[name] = value


def _whole(node: Scalar) -> int:
    value = value_of(node)
    return value if isinstance(value, int) else 0
