"""How far the log of one step run is cut into batches, and how far the server has it. Pure.

A batch, once cut, keeps its number, offset and size for ever: whatever is sent again is identical, so the server can
drop what it already has.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a log: `size` raw bytes from `offset`, number `seq` counted from 1."""

    seq: int
    offset: int
    size: int


class LogCursor:
    """The chunks of one log, oldest first, and which of them are stored."""

    def __init__(self, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._chunk_bytes = chunk_bytes
        self._chunks: list[Chunk] = []
        self._stored = 0
        self._cut = 0
        self._given_up = ""

    @classmethod
    def restored(cls, sizes: Iterable[int], stored: int) -> "LogCursor":
        """Return the cursor of a log that was cut into chunks of these sizes, of which the first `stored` are stored."""
        cursor = cls()
        for size in sizes:
            cursor._add(size)
        cursor.store(stored)
        return cursor

    @property
    def stored_chunks(self) -> int:
        return self._stored

    def sizes_from(self, first: int) -> list[int]:
        """Return the sizes of all chunks but the first so many."""
        return [chunk.size for chunk in self._chunks[first:]]

    @property
    def given_up(self) -> str:
        """Why nothing more is sent, or an empty text."""
        return self._given_up

    @property
    def stored_bytes(self) -> int:
        if not self._stored:
            return 0
        last = self._chunks[self._stored - 1]
        return last.offset + last.size

    @property
    def cut_bytes(self) -> int:
        """How many bytes of the log are cut into batches."""
        return self._cut

    def has_unsent(self, available: int) -> bool:
        """Tell whether a log of `available` bytes has any that the server has not."""
        return not self._given_up and self.stored_bytes < available

    def is_settled(self, size: int) -> bool:
        """Tell whether a log that ended with `size` bytes needs nothing more."""
        return not self.has_unsent(size)

    def next_chunks(self, available: int, limit: int) -> list[Chunk]:
        """Return the first `limit` chunks that are not stored, cutting new ones out of `available` bytes."""
        if self._given_up:
            return []
        while self._cut < available and len(self._chunks) - self._stored < limit:
            self._add(min(self._chunk_bytes, available - self._cut))
        return self._chunks[self._stored : self._stored + limit]

    def settle(self, sent: list[Chunk], refused: Mapping[int, str]) -> None:
        """Take the server's answer to chunks that were sent: `refused` has the reason for each it did not store."""
        expected = self._stored + 1
        for chunk in sent:
            reason = refused.get(chunk.seq, "DUPLICATE_SEQ")
            if reason == "DUPLICATE_SEQ":
                self.store(chunk.seq)
            elif reason == "OUT_OF_ORDER":
                # Everything before the first chunk was acknowledged by an earlier answer: if the server misses some of it,
                # it lost what it acknowledged, and all of it is sent again.
                self._stored = 0 if chunk.seq == expected else chunk.seq - 1
                return
            else:
                self.give_up(reason)
                return

    def store(self, seq: int) -> None:
        """Note that the server has everything up to chunk `seq`."""
        self._stored = max(self._stored, min(seq, len(self._chunks)))

    def give_up(self, reason: str) -> None:
        """Send nothing more: the server does not want this log."""
        self._given_up = self._given_up or reason

    def _add(self, size: int) -> None:
        self._chunks.append(Chunk(len(self._chunks) + 1, self._cut, size))
        self._cut += size
