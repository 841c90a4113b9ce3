"""Cases made up by dice. Hypothesis draws the seed alone, so that a case costs as little as it is.

A strategy that draws each part of a case by itself takes ten times as long as most of what is tested with it. What fails
is printed whole, and does not shrink; where it takes a small case to understand, draw the parts.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

from hypothesis import strategies as st

Case = TypeVar("Case")
SEEDS = st.integers(0, 2**64 - 1)


def dice(seed: int) -> Random:
    """Return dice that fall alike for the same seed."""
    return Random(seed)  # noqa: S311 - a seed that is told is what is wanted here


def cases(make: Callable[[Random], Case]) -> st.SearchStrategy[Case]:
    """Return the strategy of what `make` makes of dice."""
    return SEEDS.map(lambda seed: make(dice(seed)))
