"""The cursor of a log on disk, so that the next process of the agent sends the same batches as this one.

A server knows a batch by its number alone: cut anew, a log would have holes. So each cut is written down before it is
sent. That has to survive the end of the agent and not that of the machine, which ends the step as well.
"""

import os
from pathlib import Path

import structlog

from arcentra_agent.logs.cursor import LogCursor

_CUT, _STORED, _GIVEN_UP = b"cut", b"stored", b"given-up"
_log = structlog.get_logger("arcentra_agent")


class CursorJournal:
    """Appends to the file what is new in a cursor."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cuts = 0
        self._stored = 0
        self._is_given_up = False
        self._is_broken = False

    def restore(self) -> LogCursor:
        """Return the cursor as it was last kept; one that sends nothing more where that is not known."""
        try:
            content = self._path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            entries = [line.split() for line in whole.splitlines()]
            sizes = [int(entry[1]) for entry in entries if entry[0] == _CUT]
            self._stored = max((int(entry[1]) for entry in entries if entry[0] == _STORED), default=0)
            reasons = [b" ".join(entry[1:]).decode("utf-8", "replace") for entry in entries if entry[0] == _GIVEN_UP]
            if whole != content:
                os.truncate(self._path, len(whole))
        except (OSError, ValueError, IndexError) as error:
            self._break(error)
            cursor = LogCursor()
            cursor.give_up("the agent was started anew and does not know how far the log was sent")
            return cursor
        self._cuts = len(sizes)
        cursor = LogCursor.restored(sizes, self._stored)
        if reasons:
            self._is_given_up = True
            cursor.give_up(reasons[0] or "the server does not want it")
        return cursor

    def keep(self, cursor: LogCursor) -> None:
        """Write down what was cut and stored since the last time."""
        if self._is_broken:
            return
        sizes, stored = cursor.sizes_from(self._cuts), cursor.stored_chunks
        lines = [b"%s %d\n" % (_CUT, size) for size in sizes]
        if stored > self._stored:
            lines.append(b"%s %d\n" % (_STORED, stored))
        given_up = bool(cursor.given_up)
        if given_up and not self._is_given_up:
            lines.append(b"%s %s\n" % (_GIVEN_UP, " ".join(cursor.given_up.split()).encode("utf-8", "replace")))
        if not lines:
            return
        try:
            # Buffered, so that it is written as a whole or fails.
            with self._path.open("ab") as file:
                file.write(b"".join(lines))
        except OSError as error:
            self._break(error)
            return
        self._cuts += len(sizes)
        self._stored = max(self._stored, stored)
        self._is_given_up = given_up

    def _break(self, error: Exception) -> None:
        """Keep nothing more: a cursor that is not whole would be worse than none."""
        _log.warning("cursor_not_kept", path=str(self._path), error=str(error))
        self._is_broken = True
        try:
            self._path.unlink(missing_ok=True)
        except OSError as again:
            _log.warning("cursor_not_removed", path=str(self._path), error=str(again))
