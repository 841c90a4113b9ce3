"""The log of a step run as whole lines, whatever the pieces in which its bytes arrive. Pure."""

import codecs

from arcentra_api.stream.v1 import stream_pb2

# A step that writes without ever ending a line must not fill the memory: longer lines are cut here (characters).
LONGEST_LINE = 64 << 10


class LogReader:
    """Keeps the place in the byte stream of one log, and what is left over of its last line."""

    def __init__(self) -> None:
        self.offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def take(self, message: stream_pb2.StreamStepRunLogsResponse) -> list[str]:
        """The lines that `message` completes, without their ends; a gap is a line of its own.

        Bytes read before are dropped, so a stream opened again at an earlier offset repeats nothing.
        """
        data, lost = self._fresh(message)
        lines = []
        if lost:
            lines = [*self.end(), gap(lost)]
        return [*lines, *self._feed(self._decoder.decode(data))]

    def take_raw(self, message: stream_pb2.StreamStepRunLogsResponse) -> bytes:
        """The new bytes of `message` as the step wrote them, behind a note of the gap before them, if any."""
        data, lost = self._fresh(message)
        return (f"\n{gap(lost)}\n".encode() if lost else b"") + data

    def end(self) -> list[str]:
        """The last line, if the log does not end with a line end."""
        rest = self._rest + self._decoder.decode(b"", final=True)
        self._rest = ""
        self._decoder.reset()
        return [_visible(rest)] if rest else []

    def _fresh(self, message: stream_pb2.StreamStepRunLogsResponse) -> tuple[bytes, int]:
        known = max(0, self.offset - message.offset)
        missing = max(0, message.offset - self.offset)
        data = message.data[known:]
        lost = missing + max(0, message.lost_bytes - known)
        self.offset = max(self.offset, message.offset + message.lost_bytes + len(message.data))
        return data, lost

    def _feed(self, text: str) -> list[str]:
        *lines, rest = (self._rest + text).split("\n")
        while len(rest) > LONGEST_LINE:
            lines.append(rest[:LONGEST_LINE])
            rest = rest[LONGEST_LINE:]
        self._rest = rest
        return [_visible(line) for line in lines]


def gap(lost_bytes: int) -> str:
    """The line that stands for bytes nobody has any more."""
    return f"[{lost_bytes} bytes of log lost]"


def _visible(line: str) -> str:
    """What a terminal would leave of a line that was overwritten with carriage returns, as progress bars do."""
    return line.rstrip("\r").rpartition("\r")[2]
