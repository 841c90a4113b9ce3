"""The numbers of each row of the fault matrix: for CI, and for `make chaos ROW=...`, which may take up to an hour.

Times of CI are a tenth of the real ones: a lease of 3 s instead of 30 s, a heartbeat each second instead of each ten, and
what the matrix says of partitions and stopped agents times 0.1. The long form takes the real ones.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

LONG = os.environ.get("CHAOS_LONG") == "1"
SCALE = 1.0 if LONG else 0.1


def hang_guard() -> pytest.MarkDecorator:
    """The time after which a test is ended that hangs: many times what it takes, and no measure of anything."""
    return pytest.mark.timeout(3_600 if LONG else 900)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a fault. `times` are seconds, scaled already. What a row has no use for is 0."""

    agents: int = 20
    steps: int = 0
    faults: int = 0
    times: tuple[float, ...] = ()
    rate: float = 0.0


# By row, of CI and long.
SIZES: dict[str, tuple[Size, Size]] = {
    "F1": (Size(agents=20, steps=500, faults=25), Size(agents=200, steps=10_000, faults=300)),
    "F2": (Size(agents=3, faults=1), Size(agents=3, faults=20)),
    "F3": (Size(agents=20, steps=200, faults=1), Size(agents=200, steps=4_000, faults=20)),
    "F5": (Size(agents=10, steps=200, faults=3), Size(agents=20, steps=4_000, faults=50)),
    "F6": (Size(agents=10, steps=200, faults=60, rate=5.0), Size(agents=20, steps=4_000, faults=9_000, rate=5.0)),
    "F9": (
        Size(agents=6, times=(0.5, 2.0, 3.5, 9.0)),
        Size(agents=20, times=(5.0, 20.0, 35.0, 90.0) * 6),
    ),
    "F10": (Size(agents=4, faults=1), Size(agents=20, faults=50)),
    "F12": (Size(agents=4, times=(0.5, 4.0, 12.0)), Size(agents=10, times=(5.0, 40.0, 120.0) * 6)),
}
