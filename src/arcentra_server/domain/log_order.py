"""The log of one step run: which batch is stored where, what is lost, and when the log is complete."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from arcentra_server.domain.ingest import Reason
from arcentra_server.domain.packing import Compression

LOG_LIMIT = 512 << 20
LARGEST_OFFSET = 1 << 50
# A log whose agent did not say how long it is counts as complete when nothing has come for this long after the end.
_QUIET_SECONDS = 3
# What an ended step run still owes is not waited for longer than this: its agent may be gone for good.
_OWED_SECONDS = 300


@dataclass(frozen=True, slots=True)
class LogBatch:
    """A piece of log as an agent sends it. `offset` None: it follows the last one. `raw_size`: bytes unpacked."""

    step_id: UUID
    seq: int
    offset: int | None
    compression: Compression
    data: bytes
    raw_size: int


@dataclass(frozen=True, slots=True)
class LogState:
    """What is stored of a log. `size`: its end in bytes, losses counted; `stored_bytes`: as packed.

    `held`: bytes at the end that readers are not shown yet, as they may be the beginning of a secret.
    """

    last_seq: int = 0
    size: int = 0
    stored_bytes: int = 0
    lost_bytes: int = 0
    truncated: bool = False
    held: int = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a batch goes. `start` None: nothing is to be stored, because it is stored already or refused."""

    state: LogState
    start: int | None = None
    reason: Reason | None = None
    lost: int = 0


def place(state: LogState, batch: LogBatch, limit: int) -> Placed:
    """Decide on a batch.

    What was stored before is accepted again by its seq. The next seq is stored where it says; what it leaves out is
    lost, and a gap. A later seq is refused: the agent goes back to the one that is missing. Past `limit` bytes of
    content nothing is stored any more, for good: a smaller batch that would fit would hide the loss before it.
    """
    if batch.seq <= state.last_seq:
        return Placed(state)
    if state.truncated:
        return Placed(state, reason=Reason.LIMIT_REACHED)
    if batch.seq > state.last_seq + 1:
        return Placed(state, reason=Reason.OUT_OF_ORDER)
    start = state.size if batch.offset is None else batch.offset
    lost = start - state.size
    if lost < 0 or start > LARGEST_OFFSET:
        return Placed(state, reason=Reason.INVALID_ARGUMENT)
    if state.size - state.lost_bytes + batch.raw_size > limit:
        return Placed(replace(state, truncated=True), reason=Reason.LIMIT_REACHED)
    after = LogState(
        last_seq=batch.seq,
        size=start + batch.raw_size,
        stored_bytes=state.stored_bytes + len(batch.data),
        lost_bytes=state.lost_bytes + lost,
    )
    return Placed(after, start=start, lost=lost)


@dataclass(frozen=True, slots=True)
class LogPiece:
    """A piece of a log as readers see it: bytes, or the number of bytes that are lost at `offset`."""

    offset: int
    data: bytes
    lost: int = 0


@dataclass(frozen=True, slots=True)
class LogView:
    """A log and its step run. `log_size`: what its agent says it produced; `quiet`: seconds since anything came."""

    ended: bool
    log_size: int | None
    size: int
    truncated: bool
    quiet: float
    held: int = 0

    @property
    def complete(self) -> bool:
        """Whether nothing more is to be expected."""
        if not self.ended:
            return False
        if self.log_size is None:
            return self.truncated or self.quiet >= _QUIET_SECONDS
        return self.truncated or self.size >= self.log_size or self.quiet >= _OWED_SECONDS

    @property
    def shown(self) -> int:
        """The end of what readers may see. Once the log is complete nothing can come that makes a secret of its end."""
        return self.size if self.complete else self.size - self.held

    def missing_after(self, offset: int) -> int:
        """Return how many bytes of a complete log a reader at its stored end will never get."""
        return max(0, (self.log_size or 0) - offset) if self.complete else 0
