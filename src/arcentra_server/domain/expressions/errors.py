"""What is wrong with an expression, and where: one line for the author of the pipeline."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches

_LONGEST_SHOWN = 100
_MOST_LISTED = 8
_LONGEST_LISTED = 64


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault of an expression. `at`: how many characters of the expression stand before it."""

    at: int
    message: str


class ExpressionError(ValueError):
    """An expression is wrong or cannot be evaluated. `line` and `column` are those of the text that holds it, from 1."""

    def __init__(self, message: str, expression: str, *, column: int, line: int | None = None) -> None:
        self.column = column
        self.line = line
        where = f"line {line}, col {column}" if line is not None else f"col {column}"
        super().__init__(f'invalid expression at {where}: {message} in "{_shown(expression)}"')

    @classmethod
    def at(cls, text: str, offset: int, message: str, expression: str) -> ExpressionError:
        """Build the error of an expression that stands in a text; `offset`: where in the text the fault is."""
        column = offset - text.rfind("\n", 0, offset)
        line = text.count("\n", 0, offset) + 1 if "\n" in text else None
        return cls(message, expression, column=column, line=line)


def suggestion(name: str, known: Collection[str]) -> str:
    """Return what a name may have been meant to be, or what there is, as an addition to a message."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f" (did you mean {quoted(close[0])}?)"
    return f" (known are {listed(known)})" if known else " (there are none)"


def listed(names: Collection[str]) -> str:
    """Return names in the order of the alphabet, not too many of them."""
    shown = ", ".join(quoted(name) for name in sorted(names)[:_MOST_LISTED])
    return f"{shown} and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else shown


def quoted(name: str) -> str:
    """Return a name as a message shows it: it may come from outside, so it is cut and holds no control characters."""
    return f"'{_printable(name[:_LONGEST_LISTED])}'"


def _shown(expression: str) -> str:
    text = _printable(" ".join(expression.split()))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
