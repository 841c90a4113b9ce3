"""Durations as pipelines write them: `90s`, `30m`, `1h30m`, `2d`."""

import re

_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[dhms])")
_LONGEST = 366 * 86_400.0


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `1h30m`: parts of number and unit (`d`, `h`, `m`, `s`, `ms`).

    Raises:
        ValueError: when the text is not a duration, or is zero or longer than 366 days.
    """
    seconds, position = 0.0, 0
    for part in _PART.finditer(text):
        if part.start() != position:
            break
        seconds += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if position != len(text) or not 0 < seconds <= _LONGEST:
        raise ValueError(f"expected a duration such as 90s, 30m or 1h30m (at most 366d), got {text[:64]!r}")
    return seconds
