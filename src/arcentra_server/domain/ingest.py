"""What becomes of items that agents send in bulk: the words of an answer, and how the answers of a call add up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from arcentra_server.domain.errors import LimitExceeded


class Reason(StrEnum):
    """Why an item is not stored. Stable: agents decide by it."""

    DUPLICATE_SEQ = "DUPLICATE_SEQ"
    OUT_OF_ORDER = "OUT_OF_ORDER"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_LEASED = "NOT_LEASED"
    TOO_LARGE = "TOO_LARGE"
    LIMIT_REACHED = "LIMIT_REACHED"


class AckStatus(StrEnum):
    """Outcome of a call. OUT_OF_ORDER: something is missing before an item that came."""

    ACCEPTED = "ACCEPTED"
    PARTIAL_ACCEPTED = "PARTIAL_ACCEPTED"
    REJECTED = "REJECTED"
    OUT_OF_ORDER = "OUT_OF_ORDER"


@dataclass(frozen=True, slots=True)
class Item:
    """Names an item as it was sent: an event by its id, a log batch by its step run."""

    seq: int
    event_id: str = ""
    step_id: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one item. `reason` None: it is stored, now or before. `lost`: bytes it declares lost."""

    item: Item
    reason: Reason | None = None
    lost: int = 0


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of all items of a call, each that is refused with its reason. `last_seq`: the highest seq stored."""

    status: AckStatus
    last_seq: int
    rejections: tuple[tuple[Item, Reason], ...] = ()
    lost_bytes: int = 0

    @property
    def expected_seq(self) -> int:
        return self.last_seq + 1


MOST_REJECTED = 10_000  # items of one call, which its answer has to name


class Tally:
    """Adds up verdicts. An item that was refused and then stored when it was sent again counts as stored."""

    def __init__(self) -> None:
        self._accepted = 0
        self._lost = 0
        self._rejected: dict[Item, Reason] = {}

    def add(self, verdict: Verdict) -> None:
        if verdict.reason is None:
            self._accepted += 1
            self._lost += verdict.lost
            self._rejected.pop(verdict.item, None)
        else:
            self._rejected[verdict.item] = verdict.reason
            if len(self._rejected) > MOST_REJECTED:
                raise LimitExceeded(
                    f"more than {MOST_REJECTED} items of this call were refused: send them again in order"
                )

    def result(self, last_seq: int) -> IngestResult:
        """Return the outcome of everything that was added."""
        return IngestResult(self._status(), last_seq, tuple(self._rejected.items()), self._lost)

    def _status(self) -> AckStatus:
        if not self._rejected:
            return AckStatus.ACCEPTED
        if Reason.OUT_OF_ORDER in self._rejected.values():
            return AckStatus.OUT_OF_ORDER
        return AckStatus.PARTIAL_ACCEPTED if self._accepted else AckStatus.REJECTED
