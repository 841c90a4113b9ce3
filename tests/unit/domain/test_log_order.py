from uuid import UUID

import pytest

from arcentra_server.domain.ingest import Reason
from arcentra_server.domain.log_order import LARGEST_OFFSET, LogBatch, LogState, LogView, Placed, place
from arcentra_server.domain.packing import Compression

LIMIT = 1_000
STORED = LogState(last_seq=3, size=100, stored_bytes=100)


def batch(seq: int, offset: int | None, size: int = 10) -> LogBatch:
    return LogBatch(UUID(int=1), seq, offset, Compression.NONE, bytes(size), size)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (batch(3, 90), Placed(STORED)),
        (batch(1, 0), Placed(STORED)),
        (batch(1, 77), Placed(STORED)),
        (batch(4, 100), Placed(LogState(4, 110, 110), start=100)),
        (batch(4, None), Placed(LogState(4, 110, 110), start=100)),
        (batch(4, 130), Placed(LogState(4, 140, 110, lost_bytes=30), start=130, lost=30)),
        (batch(4, 99), Placed(STORED, reason=Reason.INVALID_ARGUMENT)),
        (batch(4, LARGEST_OFFSET + 1), Placed(STORED, reason=Reason.INVALID_ARGUMENT)),
        (batch(5, 110), Placed(STORED, reason=Reason.OUT_OF_ORDER)),
        (batch(5, None), Placed(STORED, reason=Reason.OUT_OF_ORDER)),
        (batch(2**64 - 1, 2**64 - 1), Placed(STORED, reason=Reason.OUT_OF_ORDER)),
    ],
)
def test_where_a_batch_goes(case: LogBatch, expected: Placed) -> None:
    assert place(STORED, case, LIMIT) == expected


def test_past_the_limit_nothing_is_stored_any_more() -> None:
    full = place(STORED, batch(4, 100, 901), LIMIT)
    assert full == Placed(LogState(3, 100, 100, truncated=True), reason=Reason.LIMIT_REACHED)
    assert place(full.state, batch(4, 100, 1), LIMIT).reason is Reason.LIMIT_REACHED
    assert place(full.state, batch(9, 500, 1), LIMIT).reason is Reason.LIMIT_REACHED
    assert place(full.state, batch(3, 90), LIMIT).reason is None


def test_the_limit_is_reached_by_content_and_not_by_losses() -> None:
    placed = place(STORED, batch(4, 5_000, 900), LIMIT)
    assert placed.reason is None
    assert placed.state.size == 5_900
    assert place(placed.state, batch(5, 5_900, 1), LIMIT).reason is Reason.LIMIT_REACHED


@pytest.mark.parametrize(
    ("view", "complete", "missing"),
    [
        (LogView(ended=False, log_size=None, size=5, truncated=False, quiet=9e9), False, 0),
        (LogView(ended=True, log_size=5, size=5, truncated=False, quiet=0), True, 0),
        (LogView(ended=True, log_size=9, size=5, truncated=False, quiet=10), False, 0),
        (LogView(ended=True, log_size=9, size=5, truncated=False, quiet=301), True, 4),
        (LogView(ended=True, log_size=9, size=5, truncated=True, quiet=0), True, 4),
        (LogView(ended=True, log_size=None, size=5, truncated=False, quiet=1), False, 0),
        (LogView(ended=True, log_size=None, size=5, truncated=False, quiet=3), True, 0),
        (LogView(ended=True, log_size=None, size=5, truncated=True, quiet=0), True, 0),
    ],
)
def test_when_a_log_is_complete(view: LogView, complete: bool, missing: int) -> None:
    assert view.complete is complete
    assert view.missing_after(5) == missing


def test_the_end_that_is_held_is_shown_once_the_log_is_complete() -> None:
    assert LogView(ended=False, log_size=None, size=50, truncated=False, quiet=0, held=8).shown == 42
    assert LogView(ended=True, log_size=60, size=50, truncated=False, quiet=0, held=8).shown == 42
    assert LogView(ended=True, log_size=50, size=50, truncated=False, quiet=0, held=8).shown == 50
