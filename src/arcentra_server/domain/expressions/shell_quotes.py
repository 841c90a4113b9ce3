"""Where in a shell script a variable is replaced, and where it is not: a scanner of quotes, as small as it can be.

It serves warnings, so it may be wrong about scripts that play tricks. It knows quotes, escapes, comments, command
substitutions, arithmetic and here-documents.
"""

from __future__ import annotations

import re
from enum import StrEnum

HOLE = "\0"
"""What stands in the scanned script for an expression; no script can hold it."""

_HERE = re.compile(r"<<(-?)[ \t]*(?:(['\"])([A-Za-z_][A-Za-z0-9_]*)\2|(\\?)([A-Za-z_][A-Za-z0-9_]*))")
_BEFORE_COMMENT = " \t\n;&|("


class Spot(StrEnum):
    """What an expression stands in."""

    REPLACED = "replaced"
    SINGLE_QUOTES = "single quotes"
    HERE_DOCUMENT = "a here-document with a quoted end"
    ARITHMETIC = "(( ))"


def spots(script: str) -> list[Spot]:
    """Return what each hole of a script stands in, in their order."""
    return _Scanner(script).spots()


class _Scanner:
    def __init__(self, script: str) -> None:
        self._script = script
        self._index = 0
        self._spots: list[Spot] = []
        self._open: list[str] = []  # `"`, `(` and `((` that are not closed
        self._here: list[tuple[bool, bool, str]] = []  # here-documents that begin with the next line

    def spots(self) -> list[Spot]:
        while self._index < len(self._script):
            self._index += self._step(self._script[self._index])
        return self._spots

    def _step(self, character: str) -> int:
        """Take one character and return how many are done with."""
        if character == HOLE:
            self._spots.append(Spot.ARITHMETIC if "((" in self._open else Spot.REPLACED)
        elif character == "\\":
            return 2
        elif character == "\n" and self._here:
            return self._here_documents()
        elif character == '"':
            self._toggle_quotes()
        elif character in "$(":
            return self._opening()
        elif not self._in_double_quotes:
            return self._unquoted(character)
        return 1

    @property
    def _in_double_quotes(self) -> bool:
        return bool(self._open) and self._open[-1] == '"'

    def _toggle_quotes(self) -> None:
        if self._in_double_quotes:
            self._open.pop()
        else:
            self._open.append('"')

    def _opening(self) -> int:
        script, index = self._script, self._index
        dollar = script[index] == "$"
        if dollar and script.startswith("$'", index) and not self._in_double_quotes:
            return self._quoted(index + 2, escapes=True)
        start = index + 1 if dollar else index
        if not script.startswith("(", start) or (not dollar and self._in_double_quotes):
            return 1
        opened = "((" if script.startswith("((", start) else "("
        self._open.append(opened)
        return start + len(opened) - index

    def _unquoted(self, character: str) -> int:
        script, index = self._script, self._index
        if character == "'":
            return self._quoted(index + 1, escapes=False)
        if character == "#" and (index == 0 or script[index - 1] in _BEFORE_COMMENT):
            end = script.find("\n", index)
            return self._skip(len(script) if end < 0 else end, Spot.REPLACED)
        if character == ")" and self._open:
            closed = self._open.pop()
            return 2 if closed == "((" and script.startswith("))", index) else 1
        if character == "<" and script.startswith("<<", index):
            return self._here_begins()
        return 1

    def _here_begins(self) -> int:
        if self._script.startswith("<<<", self._index):
            return 3
        found = _HERE.match(self._script, self._index)
        if found is None or "((" in self._open:
            return 2
        tabs, quotes, quoted_word, escape, word = found.groups()
        self._here.append((bool(tabs), bool(quotes or escape), quoted_word or word))
        return found.end() - self._index

    def _here_documents(self) -> int:
        script, index = self._script, self._index + 1
        for tabs, quoted, word in self._here:
            end = re.compile(rf"^{chr(9) + '*' if tabs else ''}{word}$", re.MULTILINE).search(script, index)
            stop = len(script) if end is None else end.end()
            spot = Spot.HERE_DOCUMENT if quoted else Spot.REPLACED
            self._spots += [spot] * script.count(HOLE, index, stop)
            index = min(stop + 1, len(script))
        self._here = []
        # The end of the line stays, so that a comment may follow on it.
        return max(1, index - self._index)

    def _quoted(self, start: int, *, escapes: bool) -> int:
        """Skip what stands in single quotes."""
        end = start
        while end < len(self._script) and self._script[end] != "'":
            end += 2 if escapes and self._script[end] == "\\" else 1
        return self._skip(min(end + 1, len(self._script)), Spot.SINGLE_QUOTES)

    def _skip(self, end: int, spot: Spot) -> int:
        self._spots += [spot] * self._script.count(HOLE, self._index, end)
        return end - self._index
