"""Durations as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_server.domain.durations import LONGEST_MS, format_duration, parse_duration


@given(st.integers(1, LONGEST_MS))
def test_round_trip(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds)) == milliseconds


@given(st.lists(st.tuples(st.integers(1, 999), st.sampled_from(["d", "h", "m", "s", "ms"])), min_size=1, max_size=4))
def test_parts_add_up(parts: list[tuple[int, str]]) -> None:
    sizes = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
    total = sum(number * sizes[unit] for number, unit in parts)
    text = "".join(f"{number}{unit}" for number, unit in parts)
    if total <= LONGEST_MS:
        assert parse_duration(text) == total
    else:
        with pytest.raises(ValueError, match="at most 365d"):
            parse_duration(text)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("90s", 90_000),
        ("30m", 1_800_000),
        ("1h30m", 5_400_000),
        ("2d", 172_800_000),
        ("5ms", 5),
        ("5m5s5ms", 305_005),
        ("365d", LONGEST_MS),
    ],
)
def test_examples(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "1.5h", "-1s", "1 h", " 1h", "1h ", "1h\n", "1H", "1w", "1hm", "1234567890s"]
)
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0s", "0d0ms", "366d", "365d1ms", "999999999d"])
def test_out_of_range(text: str) -> None:
    with pytest.raises(ValueError, match="longer than zero and at most 365d"):
        parse_duration(text)


@pytest.mark.parametrize(("milliseconds", "text"), [(0, "0s"), (1, "1ms"), (60_000, "1m"), (90_061_001, "1d1h1m1s1ms")])
def test_format(milliseconds: int, text: str) -> None:
    assert format_duration(milliseconds) == text


@given(st.text(max_size=12))
def test_total(text: str) -> None:
    try:
        milliseconds = parse_duration(text)
    except ValueError:
        return
    assert 0 < milliseconds <= LONGEST_MS
