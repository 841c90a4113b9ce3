"""Durations as people write them: `90s`, `30m`, `1h30m`, `2d`."""

from __future__ import annotations

import re

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_PART = re.compile(r"([0-9]{1,9})(ms|d|h|m|s)")
_WHOLE = re.compile(r"(?:[0-9]{1,9}(?:ms|d|h|m|s))+")
LONGEST_MS = 365 * _UNITS["d"]


def parse_duration(text: str) -> int:
    """Return the milliseconds of a duration.

    Raises:
        ValueError: the text is not a duration, is zero, or is longer than 365 days.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration: write for example 90s, 30m, 1h30m or 2d")
    total = sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if not 0 < total <= LONGEST_MS:
        raise ValueError(f"{text!r} must be longer than zero and at most 365d")
    return total


def format_duration(milliseconds: int) -> str:
    """Return the text that `parse_duration` reads back as the same duration, the largest units first."""
    parts = []
    for unit, size in _UNITS.items():
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
