"""Operators and functions of expressions, by the types of what they are applied to.

They do as the CEL library does; a property test compares the two. Each pays for what it does before it does it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from arcentra_server.domain.expressions import guard
from arcentra_server.domain.expressions.values import Made, number_text

LONGEST_TEXT = 64 * 1024
MOST_STEPS = 100_000
MOST_BYTES = 4 * 1024 * 1024

_TOGETHER = "all expressions of a step, or all outputs of a job, may together"
_BYTES_A_STEP = 512
# Python's search compares each place of a text with all of the other at worst. In texts as long as one of these, by how
# long the other is, it is linear; of one that is most of the text at least the last 2,000 places may be compared so.
_COMPARED_A_STEP = 2_000
_SHORT_OTHER = 100
_LONG_TEXT, _LONG_TEXT_OF_SHORT = 2_500, 30_000
_PIECE_BYTES = 64
_LEAST, _MOST = -(2**63), 2**63 - 1
_WHITE = " \t\n\v\f\r\u0085\u00a0"
_WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
_UPPER = str.maketrans("abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


class Refused(Exception):
    """A function has no answer; the text says why."""


class TooCostly(Exception):
    """The evaluations of a place have used up what they may use. Nothing in an expression can catch it."""


class Meter:
    """What the evaluations of one place may still use: steps, of about a microsecond, and bytes of new texts and lists.

    A place is a step with all its expressions, the outputs of a job, or a condition: what is evaluated at one go, while
    nothing else runs.
    """

    __slots__ = ("_bytes", "_steps")

    def __init__(self) -> None:
        self._steps = MOST_STEPS
        self._bytes = MOST_BYTES

    @property
    def spent(self) -> int:
        """How many steps were charged to it, those that it did not have included."""
        return MOST_STEPS - self._steps

    @property
    def is_exhausted(self) -> bool:
        """Whether something was charged to it that it did not have."""
        return self._steps < 0 or self._bytes < 0

    def step(self, count: int = 1) -> None:
        self._steps -= count
        if self._steps < 0:
            raise TooCostly(f"it takes too many steps: {_TOGETHER} take {MOST_STEPS:,} of them")

    def read(self, *texts: str) -> None:
        """Pay for looking through texts."""
        self.step(1 + sum(map(len, texts)) // _BYTES_A_STEP)

    def search(self, size: int, other: int, *, all_of_them: bool = False) -> None:
        """Pay for finding a text in another.

        Args:
            size: The length of what is searched.
            other: The length of what is looked for.
            all_of_them: Whether it is looked for again behind each that is found.
        """
        places = max(0, size - other + 1)
        long = _LONG_TEXT_OF_SHORT if other < _SHORT_OTHER else _LONG_TEXT
        if size >= long:
            # What is left behind one that was found may be short, however long the whole is.
            is_linear = not all_of_them and other // 4 * 3 < size // 4
            places = 0 if is_linear else min(places, long)
        self.step(1 + places * other // _COMPARED_A_STEP)

    def make(self, size: int) -> None:
        """Pay for a new text or list of some bytes."""
        self._bytes -= size
        if self._bytes < 0:
            raise TooCostly(f"it takes too much memory: {_TOGETHER} make {MOST_BYTES // 1024 // 1024} MiB")
        self.step(1 + size // _BYTES_A_STEP)

    def make_text(self, size: int) -> None:
        """Pay for a new text, which must not be longer than `LONGEST_TEXT`."""
        if size > LONGEST_TEXT:
            raise TooCostly(f"it makes a text of more than {LONGEST_TEXT // 1024} KiB")
        self.make(size)


def equal(meter: Meter, one: Any, other: Any) -> bool:
    """Compare two values as CEL does: numbers by value, truth values only with each other, the rest by kind."""
    meter.step()
    match one, other:
        case (bool(), _) | (_, bool()):
            return one is other
        case str(), str():
            return len(one) == len(other) and _equal_texts(meter, one, other)
        case ((list() | tuple()), (list() | tuple())):
            return len(one) == len(other) and all(equal(meter, *pair) for pair in zip(one, other, strict=True))
        case Mapping(), Mapping():
            return len(one) == len(other) and all(
                key in other and equal(meter, value, other[key]) for key, value in one.items()
            )
        case ((int() | float()), (int() | float())):
            return bool(one == other)
    return one is None and other is None


def _equal_texts(meter: Meter, one: str, other: str) -> bool:
    meter.read(one)
    return one == other


def _whole(value: int) -> int:
    if not _LEAST <= value <= _MOST:
        raise Refused("the result is beyond 64 bits")
    return value


def _divide(_: Meter, one: int, other: int) -> int:
    if other == 0:
        raise Refused("division by zero")
    return _whole(abs(one) // abs(other) * (1 if (one < 0) == (other < 0) else -1))


def _remainder(_: Meter, one: int, other: int) -> int:
    if other == 0:
        raise Refused("division by zero")
    return abs(one) % abs(other) * (1 if one >= 0 else -1)


def _divide_double(_: Meter, one: float, other: float) -> float:
    if other != 0:
        return one / other
    return math.nan if one == 0 or math.isnan(one) else math.copysign(math.inf, one) * math.copysign(1, other)


def _concatenate(meter: Meter, one: str, other: str) -> str:
    meter.make_text(len(one) + len(other))
    return one + other


def _join_lists(meter: Meter, one: list[Any], other: list[Any]) -> list[Any]:
    meter.make((len(one) + len(other)) * 8)
    return Made([*one, *other])


def _compare(test: Callable[[Any, Any], bool]) -> Callable[[Meter, Any, Any], bool]:
    def compare(meter: Meter, one: Any, other: Any) -> bool:
        meter.step()
        return test(one, other)

    return compare


def _compare_texts(test: Callable[[str, str], bool]) -> Callable[[Meter, str, str], bool]:
    def compare(meter: Meter, one: str, other: str) -> bool:
        meter.read(one if len(one) < len(other) else other)
        return test(one, other)

    return compare


def _about(test: Callable[[str, str], bool]) -> Callable[[Meter, str, str], bool]:
    def answer(meter: Meter, text: str, other: str) -> bool:
        meter.read(text, other)
        return test(text, other)

    return answer


def _contains(meter: Meter, text: str, other: str) -> bool:
    meter.read(text, other)
    meter.search(len(text), len(other))
    return other in text


def _matches(meter: Meter, text: str, pattern: str) -> bool:
    # The library compiles the pattern anew each time: this is what that takes at most.
    meter.step(30 + 10 * len(pattern) * guard.repetition(pattern))
    meter.read(text)
    return guard.matches(text, pattern)


def _int_of_text(_: Meter, text: str) -> int:
    if len(text) > 32 or not _WHOLE.fullmatch(text):
        raise Refused("the text is not a whole number")
    return _whole(int(text))


def _int_of_double(_: Meter, value: float) -> int:
    if not math.isfinite(value) or not _LEAST < value < _MOST:
        raise Refused("the number is beyond 64 bits")
    return int(value)


def _double_of_text(_: Meter, text: str) -> float:
    if len(text) <= 64 and "_" not in text:
        with suppress(ValueError):
            return float(text)
    raise Refused("the text is not a number")


def _lower(meter: Meter, text: str) -> str:
    meter.make_text(len(text))
    return text.translate(_LOWER)


def _upper(meter: Meter, text: str) -> str:
    meter.make_text(len(text))
    return text.translate(_UPPER)


def _trim(meter: Meter, text: str) -> str:
    meter.make_text(len(text))
    return text.strip(_WHITE)


def _replace(meter: Meter, text: str, old: str, new: str, most: int = -1) -> str:
    meter.read(text, old)
    # Once to count, once to replace.
    meter.search(len(text), len(old), all_of_them=True)
    meter.search(len(text), len(old), all_of_them=True)
    count = text.count(old)
    if most >= 0:
        count = min(count, most)
    meter.make_text(len(text) + count * max(0, len(new) - len(old)))
    return text.replace(old, new, count)


def _split(meter: Meter, text: str, separator: str, most: int = -1) -> list[str]:
    if most == 0:
        return Made()
    meter.read(text, separator)
    if not separator:
        pieces = max(1, min(len(text), most if most > 0 else len(text)))
        meter.make(pieces * _PIECE_BYTES + len(text))
        return Made([*text[: pieces - 1], text[pieces - 1 :]])
    # Once to count, once to split.
    meter.search(len(text), len(separator), all_of_them=True)
    meter.search(len(text), len(separator), all_of_them=True)
    meter.make((text.count(separator) + 1) * _PIECE_BYTES + len(text))
    return Made(text.split(separator, most - 1 if most > 0 else -1))


def _join(meter: Meter, items: list[Any], separator: str = "") -> str:
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) != len(items):
        raise Refused("not all items of the list are texts")
    meter.step(len(texts))
    meter.make_text(sum(map(len, texts)) + len(separator) * max(0, len(texts) - 1))
    return separator.join(texts)


def _substring(meter: Meter, text: str, start: int, end: int | None = None) -> str:
    last = len(text) if end is None else end
    if not 0 <= start <= last <= len(text):
        raise Refused(f"the text has {len(text)} characters, and no part from {start} to {last}")
    meter.make_text(last - start)
    return text[start:last]


def _index_of(meter: Meter, text: str, other: str, start: int = 0) -> int:
    if not 0 <= start <= len(text):
        raise Refused(f"the text has {len(text)} characters, and no place {start}")
    meter.read(text, other)
    meter.search(len(text) - start, len(other))
    return text.find(other, start)


def _size(_: Meter, value: Any) -> int:
    return len(value)


def _same(_: Meter, value: Any) -> Any:
    return value


_TEXT, _INT, _DOUBLE, _BOOL, _LIST, _MAP = "string", "int", "double", "bool", "list", "map"
Overload = Callable[..., Any]

OVERLOADS: dict[tuple[str, ...], Overload] = {
    ("_+_", _INT, _INT): lambda _, one, other: _whole(one + other),
    ("_-_", _INT, _INT): lambda _, one, other: _whole(one - other),
    ("_*_", _INT, _INT): lambda _, one, other: _whole(one * other),
    ("_/_", _INT, _INT): _divide,
    ("_%_", _INT, _INT): _remainder,
    ("-_", _INT): lambda _, value: _whole(-value),
    ("_+_", _DOUBLE, _DOUBLE): lambda _, one, other: one + other,
    ("_-_", _DOUBLE, _DOUBLE): lambda _, one, other: one - other,
    ("_*_", _DOUBLE, _DOUBLE): lambda _, one, other: one * other,
    ("_/_", _DOUBLE, _DOUBLE): _divide_double,
    ("-_", _DOUBLE): lambda _, value: -value,
    ("!_", _BOOL): lambda _, value: not value,
    ("_+_", _TEXT, _TEXT): _concatenate,
    ("_+_", _LIST, _LIST): _join_lists,
    ("size", _TEXT): _size,
    ("size", _LIST): _size,
    ("size", _MAP): _size,
    ("contains", _TEXT, _TEXT): _contains,
    ("startsWith", _TEXT, _TEXT): _about(str.startswith),
    ("endsWith", _TEXT, _TEXT): _about(str.endswith),
    ("matches", _TEXT, _TEXT): _matches,
    ("int", _INT): _same,
    ("int", _BOOL): lambda _, value: int(value),
    ("int", _DOUBLE): _int_of_double,
    ("int", _TEXT): _int_of_text,
    ("double", _DOUBLE): _same,
    ("double", _INT): lambda _, value: float(value),
    ("double", _TEXT): _double_of_text,
    ("string", _TEXT): _same,
    ("string", _INT): lambda _, value: str(value),
    ("string", _DOUBLE): lambda _, value: number_text(value),
    ("string", _BOOL): lambda _, value: "true" if value else "false",
    ("lowerAscii", _TEXT): _lower,
    ("upperAscii", _TEXT): _upper,
    ("trim", _TEXT): _trim,
    ("replace", _TEXT, _TEXT, _TEXT): _replace,
    ("replace", _TEXT, _TEXT, _TEXT, _INT): _replace,
    ("split", _TEXT, _TEXT): _split,
    ("split", _TEXT, _TEXT, _INT): _split,
    ("join", _LIST): _join,
    ("join", _LIST, _TEXT): _join,
    ("substring", _TEXT, _INT): _substring,
    ("substring", _TEXT, _INT, _INT): _substring,
    ("indexOf", _TEXT, _TEXT): _index_of,
    ("indexOf", _TEXT, _TEXT, _INT): _index_of,
}

_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "_<_": lambda one, other: one < other,
    "_<=_": lambda one, other: one <= other,
    "_>_": lambda one, other: one > other,
    "_>=_": lambda one, other: one >= other,
}
for _name, _test in _TESTS.items():
    OVERLOADS[_name, _TEXT, _TEXT] = _compare_texts(_test)
    OVERLOADS[_name, _BOOL, _BOOL] = _compare(_test)
    for _one in (_INT, _DOUBLE):
        for _other in (_INT, _DOUBLE):
            OVERLOADS[_name, _one, _other] = _compare(_test)
