"""What an agent tells a step host: lines in a named pipe, each short enough to be written and read as a whole. Pure."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

# In characters, of which one may take 6 bytes: Linux writes 4096 bytes as a whole.
_LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class Feed:
    """The lease was renewed: the step may run up to this boot time."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Stop:
    """End the step as cancelled: TERM, `grace` seconds (None: those of its order), KILL. 0 kills at once."""

    reason: str
    grace: float | None = None


@dataclass(frozen=True, slots=True)
class Discard:
    """Nobody wants the log any more: keep nothing of it, and only count what comes."""


Command = Feed | Stop | Discard


def encode(command: Command) -> bytes:
    """Return the line for a command."""
    fields = asdict(command)
    if isinstance(command, Stop):
        fields["reason"] = command.reason[:_LONGEST_REASON]
    line = json.dumps({"command": type(command).__name__, **fields}, ensure_ascii=False)
    return line.encode("utf-8", "replace") + b"\n"


def decode(data: bytes) -> Iterator[Command]:
    """Yield the commands of some lines; what is none of these, of a newer agent, is skipped."""
    for line in data.splitlines():
        match json.loads(line):
            case {"command": "Feed", "deadline": float() | int() as deadline}:
                yield Feed(deadline)
            case {"command": "Stop", "reason": str() as reason, "grace": float() | int() | None as grace}:
                yield Stop(reason, grace)
            case {"command": "Discard"}:
                yield Discard()
