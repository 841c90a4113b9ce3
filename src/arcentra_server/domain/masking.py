"""Masking of secrets in logs: which bytes of a log show a secret, however the log is cut into chunks.

A byte is masked if and only if it is part of an occurrence of a *needle*: a secret in one of the forms in which programs
write it down. Occurrences may overlap; nothing depends on where a search began. A masked byte becomes `*`, so that all
offsets into the log stay true.

A log comes in chunks, and a secret may lie across a cut. So each chunk is masked by itself, and then the *seam* between
it and what came before is looked at: what is found there is masked on both sides. Until then readers must not see the
end of a log that may be the beginning of a secret (`Matcher.open_end`).

Masking keeps secrets from being shown by accident. It is no boundary: who can run a step with a secret can print it in
a form that nobody knows.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

LEAST_BYTES = 6
"""What is shorter is not masked: too much of what is no secret would be."""

Span = tuple[int, int]
"""From a byte on, to before another one."""

MASK = b"*"
# Above it, looking at each place of a text costs less than searching for one needle after the other.
_MANY = 150
# Longest repeated part that is looked for in a needle, and longest needle in which it is.
_LONGEST_PERIOD = 64
_LONGEST_PERIODIC = 4_096
_RUN_BYTES = 1_024
_HTML_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
# What bash (`printf %q`) puts a backslash before: of # and ~ at the begin of a text the bare form is found as well.
_ESCAPED_BY_BASH = re.compile(r"""[ "'\\|&;()<>!{}*\[\]?^$`,]|(?<=[:=])~""")
# As bash writes a text with control characters, which is $'...'.
_ANSI_C = {code: f"\\{code:03o}" for code in (*range(1, 32), 127)} | str.maketrans(
    {"\a": "\\a", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\v": "\\v", "\f": "\\f", "\r": "\\r", "\x1b": "\\E"}
    | {"'": "\\'", "\\": "\\\\"}
)
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")


def needles_of(values: Iterable[str]) -> frozenset[bytes]:
    """Return what is to be masked for these secrets: each value, its lines, and its encoded forms."""
    found: set[bytes] = set()
    for value in values:
        for text in {value, value.strip("\r\n")}:
            if len(text.strip().encode()) >= LEAST_BYTES:
                found.update(form.encode() for form in _forms(text))
                found.update(_base64_forms(text.encode()))
        # Without the space around it: where the line is, that is too, and what is between lines of code is no secret.
        found |= {line.strip().encode() for line in re.split(r"[\r\n]+", value)}
    return frozenset(needle for needle in found if len(needle) >= LEAST_BYTES)


def _forms(text: str) -> Iterator[str]:
    yield text
    # URLs: all that is not plain escaped, as forms do it, as JavaScript does it, as in paths; in either case of hex.
    yield from (escaped := quote(text, safe=""), quote_plus(text), quote(text, safe="!'()*"), quote(text))
    yield re.sub("%..", lambda match: match[0].lower(), escaped)
    # JSON: in ASCII and not, and as Go writes it.
    yield from (in_ascii := json.dumps(text)[1:-1], as_it_is := json.dumps(text, ensure_ascii=False)[1:-1])
    yield from (in_ascii.translate(_HTML_ESCAPES), as_it_is.translate(_HTML_ESCAPES))
    # Shells: in single quotes in the two ways to have one inside, in double quotes, with backslashes, as $'...'.
    yield from (text.replace("'", "'\"'\"'"), text.replace("'", "'\\''"))
    yield re.sub(r'([\\"$`])', r"\\\1", text)
    yield re.sub(r"([^A-Za-z0-9_.,:+@%/=-])", r"\\\1", text)
    yield _ESCAPED_BY_BASH.sub(r"\\\g<0>", text)
    yield (in_ansi_c := text.translate(_ANSI_C))
    # In octal what cannot be shown; in the locale C that is all that is not ASCII.
    yield _BEYOND_ASCII.sub(lambda match: match[0] if match[0].isprintable() else _octal(match[0]), in_ansi_c)
    yield _BEYOND_ASCII.sub(lambda match: _octal(match[0]), in_ansi_c)


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode())


def _base64_forms(value: bytes) -> Iterator[bytes]:
    """Yield how a value looks inside of something larger in base64, for each of the three places it can begin at.

    What depends on the bytes around it is left out at both ends. At the end of the whole there is no byte after it.
    """
    for shift in range(3):
        encoded = b64encode(bytes(shift) + value)
        start = -(-shift * 8 // 6)
        for form in (encoded[start : (shift + len(value)) * 8 // 6], encoded[start:].rstrip(b"=")):
            yield form
            yield form.translate(bytes.maketrans(b"+/", b"-_"))


@dataclass(frozen=True, slots=True, repr=False)
class Masked:
    """A chunk, masked by itself. `data` None: nothing in it. `head`, `tail`: its ends as they were, for its seams."""

    data: bytes | None
    head: bytes
    tail: bytes


class Matcher:
    """Finds needles, of which there is at least one."""

    def __init__(self, needles: Collection[bytes]) -> None:
        self._needles = frozenset(needles)
        self._runs = [(needle, _runs(needle)) for needle in sorted(needles)] if len(needles) <= _MANY else []
        self._by_prefix: dict[bytes, list[bytes]] = {}
        for needle in sorted(needles, key=len, reverse=True):
            self._by_prefix.setdefault(needle[:LEAST_BYTES], []).append(needle)
        self._beginnings = {prefix[:size] for prefix in self._by_prefix for size in range(1, LEAST_BYTES)}
        # Longest first: the first that is found at a place covers all others there.
        self._sizes = {
            prefix: sorted({len(needle) for needle in group}, reverse=True) for prefix, group in self._by_prefix.items()
        }
        self.reach = max(len(needle) for needle in needles) - 1
        """So many bytes on either side of a cut decide whether a needle lies across it."""

    def spans(self, data: bytes) -> list[Span]:
        """Return the masked parts of a text: ascending, neither overlapping nor touching."""
        return _merged(self._search(data) if self._runs else self._scan(data))

    def mask(self, data: bytes) -> Masked:
        """Mask a chunk by itself."""
        spans = self.spans(data)
        return Masked(cover(data, spans) if spans else None, data[: self.reach], data[-self.reach :])

    def seam(self, before: bytes, head: bytes) -> Span | None:
        """Return the masked part that lies across a cut, counted from the cut: it begins below 0 and ends above.

        Args:
            before: The last bytes before the cut, `reach` of them where there are so many.
            head: The first bytes after it, likewise.
        """
        before, head = before[-self.reach :], head[: self.reach]
        cut = len(before)
        across = ((start - cut, end - cut) for start, end in self.spans(before + head) if start < cut < end)
        return next(across, None)

    def joined(self, before: bytes, tail: bytes) -> bytes:
        """Return the last bytes of a text of which only the ends of its two parts are known."""
        return (before + tail)[-self.reach :]

    def open_end(self, data: bytes) -> int:
        """Return how many bytes at the end may be the beginning of a needle that goes on in what comes next."""
        for at in range(max(0, len(data) - self.reach), len(data)):
            beginning = data[at : at + LEAST_BYTES]
            if len(beginning) < LEAST_BYTES:
                if beginning in self._beginnings:
                    return len(data) - at
            elif group := self._by_prefix.get(beginning):
                rest = data[at:]
                if any(len(needle) > len(rest) and needle.startswith(rest) for needle in group):
                    return len(rest)
        return 0

    def _search(self, data: bytes) -> Iterator[Span]:
        """Yield what covers all occurrences, by a search for each needle."""
        for needle, runs in self._runs:
            at = data.find(needle)
            while at >= 0:
                end = at + len(needle)
                for run in runs:
                    while data.startswith(run, end):
                        end += len(run)
                yield at, end
                at = data.find(needle, end - len(needle) + 1)

    def _scan(self, data: bytes) -> Iterator[Span]:
        """Yield what covers all occurrences, by a look at each place."""
        for at in range(len(data) - LEAST_BYTES + 1):
            if sizes := self._sizes.get(data[at : at + LEAST_BYTES]):
                for size in sizes:
                    if (piece := data[at : at + size]) in self._needles:
                        yield at, at + len(piece)  # at the end of the text it is shorter than `size`
                        break


def cover(data: bytes, spans: Sequence[Span]) -> bytes:
    """Return a text with these parts masked."""
    covered = bytearray(data)
    for start, end in spans:
        covered[start:end] = MASK * (end - start)
    return bytes(covered)


def _runs(needle: bytes) -> tuple[bytes, ...]:
    """Return what may follow a needle so that the needle ends there once more, when it repeats itself; much first.

    Without it a search in a text of one character, for a needle of that character, would stop at every byte.
    """
    if len(needle) <= _LONGEST_PERIODIC:
        for period in range(1, min(len(needle) // 2, _LONGEST_PERIOD) + 1):
            if needle[period:] == needle[:-period]:
                step = needle[-period:]
                return step * (_RUN_BYTES // period), step
    return ()


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
