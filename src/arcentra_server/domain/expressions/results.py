"""What comes out of an evaluation, within bounds.

A macro can hand out references to one list thousands of times, for which the evaluation paid only a few bytes each. So a
result is walked with a budget: it is looked at, and copied, no further than it may be large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from arcentra_server.domain.expressions.functions import Meter, Refused
from arcentra_server.domain.expressions.values import LARGEST_RESULT, size_of, without_nul

_NOT_FINITE = "a number in its value is infinite or not a number, or far too large: look for a division by 0.0"


def result(value: Any, meter: Meter) -> Any:
    """Return a copy of a value with nothing in it that could be taken for a mark of a secret: no NUL anywhere.

    Args:
        value: JSON, parts of which may be the same list or map.
        meter: Pays for each part, and for the bytes of its texts.

    Raises:
        Refused: it is too large, or holds a number that JSON, and so a step, cannot have.
        TooCostly: the meter has not that much left.
    """
    return _Walk(meter).copy(value)


class _Walk:
    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._left = LARGEST_RESULT

    def copy(self, value: Any) -> Any:
        self._meter.step()
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            copied = {}
            for key, item in value.items():
                self._take(4)
                copied[self._text(str(key))] = self.copy(item)
            return copied
        if isinstance(value, (list, tuple)):
            items = []
            for item in value:
                self._take(2)
                items.append(self.copy(item))
            return items
        self._take(8)
        if not _is_finite(value):
            raise Refused(_NOT_FINITE)
        return value

    def _text(self, text: str) -> str:
        text = without_nul(text)
        size = size_of(text)
        self._take(size)
        self._meter.make(size)
        return text

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Refused(f"its value is larger than {LARGEST_RESULT // 1024} KiB")


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, (int, float)) or math.isfinite(value)
    except OverflowError:
        return False
