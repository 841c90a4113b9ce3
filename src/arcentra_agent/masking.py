"""Replacing secrets in a stream of bytes, wherever the stream is cut. Pure.

What is masked is the union of all occurrences of all needles, each connected piece by one `***`. So the result depends
neither on the order of the needles nor on the cuts, and nothing of a needle shows beside another that overlaps it.
"""

from collections.abc import Iterable

MASK = b"***"
# The beginning of a needle that is searched for; what is shorter, at the very end of a text, is compared byte by byte.
_PREFIX = 6

_Span = tuple[int, int]


class Masker:
    """Masks one stream. Only an end that may be the beginning of a needle is kept back, until more comes or `flush`."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        self._needles = sorted(filter(None, set(needles)))
        self._kept = b""
        # Of the kept bytes: so many belong to an occurrence already, and so many have been given out already.
        self._covered = 0
        self._shown = 0
        self._after_mask = False

    @property
    def is_holding(self) -> bool:
        """Tell whether bytes are kept back that `flush` would give out."""
        return len(self._kept) > self._shown

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return what can be shown of all that was taken."""
        text = self._kept + data
        spans = self._spans(text)
        end = self._first_beginning(text)
        shown = self._show(text, spans, end)
        self._kept = text[end:]
        self._covered = next((stop - end for start, stop in spans if start <= end < stop), 0)
        self._shown = max(0, self._shown - end)
        return shown

    def flush(self) -> bytes:
        """Return what is kept back, because nothing follows for now.

        The stream may go on: of a needle whose beginning was given out here, the rest is masked.
        """
        shown = self._show(self._kept, self._spans(self._kept), len(self._kept))
        self._shown = len(self._kept)
        return shown

    def _spans(self, text: bytes) -> list[_Span]:
        """Return what has to be masked: ascending, neither overlapping nor touching."""
        found: list[_Span] = [(0, self._covered)] if self._covered else []
        for needle in self._needles:
            at = text.find(needle)
            while at >= 0:
                found.append((at, at + len(needle)))
                at = text.find(needle, at + 1)
        return _merged(found)

    def _first_beginning(self, text: bytes) -> int:
        """Return where the longest end of the text begins that a needle begins with; the text's length if none does."""
        first = len(text)
        for needle in self._needles:
            first = _beginning_before(first, needle, text)
        return first

    def _show(self, text: bytes, spans: list[_Span], end: int) -> bytes:
        """Return the text up to `end`, masked, without what was given out before."""
        parts: list[bytes] = []
        at = self._shown
        for start, stop in spans:
            if start >= end:
                break
            if start > at:
                parts.append(text[at:start])
                self._after_mask = False
            if stop > at:
                if not self._after_mask:
                    parts.append(MASK)
                self._after_mask = True
                at = min(stop, end)
        if at < end:
            parts.append(text[at:end])
            self._after_mask = False
        return b"".join(parts)


def _merged(spans: list[_Span]) -> list[_Span]:
    merged: list[_Span] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _beginning_before(first: int, needle: bytes, text: bytes) -> int:
    """Return the first place before `first` from where on the text is a beginning of the needle; else `first`."""
    at = max(0, len(text) - len(needle) + 1)
    while 0 <= (at := text.find(needle[:_PREFIX], at)) < first:
        if needle.startswith(text[at:]):
            return at
        at += 1
    for at in range(max(0, len(text) - min(_PREFIX, len(needle)) + 1), first):
        if needle.startswith(text[at:]):
            return at
    return first
