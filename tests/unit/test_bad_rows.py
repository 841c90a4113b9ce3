"""Rows that failed again and again rest, for a while."""

from __future__ import annotations

from arcentra_server.db.bad_rows import REST_SECONDS, BadRows
from arcentra_server.domain.errors import WriteConflict


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_row_rests_after_three_failures_in_a_row_and_is_tried_again() -> None:
    clock = Clock()
    bad = BadRows("loop", clock)
    for error in (ValueError(), ValueError(), WriteConflict("again")):
        bad.failed("a", error)
    assert bad.all_passed_over() == []
    bad.failed("a", ValueError())
    assert (bad.passed_over(["a", "b"]), bad.all_passed_over()) == (["a"], ["a"])
    clock.now += REST_SECONDS
    assert bad.all_passed_over() == []
    bad.failed("a", ValueError())
    assert bad.all_passed_over() == ["a"]
    bad.went_well(["a"])
    bad.failed("a", ValueError())
    assert bad.all_passed_over() == []
