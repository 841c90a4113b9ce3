"""A Struct of the contract by its known keys, as `document_fields` reads a mapping of a document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import struct_pb2

from arcentra_server.rpc.convert.fields import HOLDS_NUL, Findings
from arcentra_server.rpc.convert.shapes import Shape, unknown_key

EXACT_INTEGERS = 2**53
"""Up to here every integer is a double, which is all that a Struct holds."""


class StructFields:
    """See the module. Keys may be written in snake_case and in camelCase; null is an absent value."""

    def __init__(self, findings: Findings, struct: struct_pb2.Struct, path: str, shape: Shape) -> None:
        self.findings = findings
        self.base = path
        self._values: dict[str, Any] = {}
        for key, value in struct.fields.items():
            name = shape.spellings.get(key)
            if name is None:
                findings.add(self.path(key[:80]), unknown_key(key, shape.spellings))
            elif name in self._values:
                findings.add(self.path(name), "is given twice")
            elif value.WhichOneof("kind") not in {None, "null_value"}:
                self._values[name] = plain(value)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def path(self, name: str) -> str:
        return f"{self.base}.{name}"

    def text(self, name: str) -> str:
        return self._text(self._values.get(name, ""), self.path(name))

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self._values.get(name, default)
        if isinstance(value, bool):
            return value
        self._expected("true or false", name)
        return default

    def number(self, name: str, *, default: int = 0) -> int:
        value = self._values.get(name, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        self._expected("a whole number", name)
        return default

    def duration(self, name: str) -> int | None:
        return self.findings.duration(self.text(name), self.path(name)) if name in self else None

    def texts(self, name: str) -> dict[str, str]:
        """Return a mapping of strings with free keys."""
        values = self._values.get(name, {})
        if not isinstance(values, Mapping):
            self._expected("a mapping", name)
            return {}
        path = self.path(name)
        return {
            self.findings.text(key, path): self._text(value, f"{path}[{key[:80]!r}]") for key, value in values.items()
        }

    def list_of_text(self, name: str) -> list[str]:
        values = self._values.get(name, [])
        if not isinstance(values, list):
            self._expected("a list", name)
            return []
        path = self.path(name)
        return [self._text(value, f"{path}[{index}]") for index, value in enumerate(values)]

    def _text(self, value: Any, path: str) -> str:
        if isinstance(value, str):
            return self.findings.text(value, path)
        self.findings.add(path, "expected a string")
        return ""

    def _expected(self, what: str, name: str) -> None:
        self.findings.add(self.path(name), f"expected {what}")


def plain(value: struct_pb2.Value) -> Any:
    """Return a value as JSON has it."""
    match value.WhichOneof("kind"):
        case "number_value":
            return number(value.number_value)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return plain_struct(value.struct_value)
        case "list_value":
            return [plain(item) for item in value.list_value.values]
    return None


def plain_struct(struct: struct_pb2.Struct) -> dict[str, Any]:
    """Return a Struct as JSON has it."""
    return {key: plain(value) for key, value in struct.fields.items()}


def number(value: float) -> float | int:
    """Return an integer for a number that is one, so that `3` does not become `3.0` on its way."""
    return int(value) if value.is_integer() and abs(value) <= EXACT_INTEGERS else value


def check_nul(value: Any, path: str, findings: Findings) -> None:
    """Note a NUL in any text of JSON data, as the database cannot store it."""
    if holds_nul(value):
        findings.add(path, HOLDS_NUL)


def holds_nul(value: Any) -> bool:
    """Answer whether any text in JSON data holds a NUL."""
    match value:
        case str():
            return "\0" in value
        case dict():
            return any("\0" in key or holds_nul(item) for key, item in value.items())
        case list():
            return any(holds_nul(item) for item in value)
    return False
