"""Marks: what stands for a secret in a rendered text, until its step is sent to an agent.

A mark holds NUL, which no stored text can hold and which is taken out of every value that an expression makes. So
nothing that comes from outside can become one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from arcentra_server.domain.expressions.errors import ExpressionError

_NAME = "\0secret:([A-Za-z_][A-Za-z0-9_]{0,127})\0"
_MARK = re.compile(_NAME)
_RAW_MARK = re.compile(_NAME.encode())


def mark(name: str) -> str:
    """Return what stands for a secret."""
    return f"\0secret:{name}\0"


def marked(texts: Iterable[str]) -> frozenset[str]:
    """Return the names of the secrets that have a mark in texts."""
    return frozenset(name for text in texts if "\0" in text for name in _MARK.findall(text))


def marks_in(raw: bytes) -> list[str]:
    """Return the names of the secrets that have marks in a stored form, each as often as it has."""
    return [name.decode() for name in _RAW_MARK.findall(raw)] if b"\0secret:" in raw else []


def fill_secrets(text: str, values: Mapping[str, str]) -> str:
    """Put the values of secrets where their marks are; what a value looks like does not matter.

    Raises:
        ExpressionError: a secret has no value.
    """

    def value(found: re.Match[str]) -> str:
        name = found.group(1)
        if name not in values:
            raise ExpressionError(f"there is no secret '{name}'", f"secrets.{name}", column=1)
        return values[name]

    return _MARK.sub(value, text) if "\0" in text else text
