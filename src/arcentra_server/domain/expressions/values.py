"""The values of expressions: JSON. How they look from inside an expression, and as what comes out of one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LONGEST_SEEN = 4096
LARGEST_RESULT = 64 * 1024
NUL = "\0"


class Made(list[Any]):
    """A list that an expression has made. What is in it was seen already; what is in other lists and maps was not."""


class MadeMap(dict[str, Any]):
    """A map that an expression has made."""


_KINDS: dict[type, str] = {
    bool: "bool",
    int: "int",
    float: "double",
    str: "string",
    list: "list",
    dict: "map",
    type(None): "null",
    Made: "list",
    MadeMap: "map",
}
_SHOWN_PLAIN = 1e15


def kind(value: Any) -> str:
    """Return the CEL type of a value that an expression sees."""
    return _KINDS[type(value)]


def seen(value: Any, longest: int | None = LONGEST_SEEN) -> Any:
    """Return a value as expressions see it: texts are cut and hold no NUL. What is in a list or map is seen later.

    Args:
        value: JSON, or what is made like it.
        longest: How many bytes of a text are seen; None: all of them.
    """
    if type(value) is str:
        return _text(value, longest)
    if type(value) in _KINDS:
        return value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, str):
        return _text(str(value), longest)
    raise TypeError(f"{type(value).__name__} is not a value of JSON")


def without_nul(text: str) -> str:
    """Return a text without NUL."""
    return text.replace(NUL, "") if NUL in text else text


def size_of(text: str) -> int:
    """Return how many bytes a text takes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def text_of(value: Any) -> str | None:
    """Return a value as part of a text, None when it is no single value."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return number_text(value)
        case str():
            return value
    return None


def number_text(value: float) -> str:
    """Return a number as people write it: 3, 0.25, 1e+21."""
    if math.isfinite(value) and value.is_integer() and abs(value) < _SHOWN_PLAIN:
        return str(int(value))
    return repr(value)


def _text(text: str, longest: int | None) -> str:
    text = without_nul(text)
    if not text.isascii():
        # Half of a surrogate pair, which JSON can hold, has no form in UTF-8.
        data = (text if longest is None else text[:longest]).encode("utf-8", "replace")
        return data[:longest].decode("utf-8", "ignore")
    return text if longest is None else text[:longest]
