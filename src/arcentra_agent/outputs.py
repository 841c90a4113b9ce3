"""What a step hands on to what comes after it: the lines it wrote to `$ARCENTRA_OUTPUT`, read and checked."""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

MOST_OUTPUTS = 100
MOST_BYTES = 64 * 1024
# A name may be written again and again, and only its last value counts.
_FILE_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")


class OutputError(ValueError):
    """The outputs are wrong; the text names the line, and never its content: it may be a secret."""


def read_outputs(path: Path) -> dict[str, str]:
    """Return the outputs a step wrote; none if it removed the file.

    Raises:
        OutputError: when they cannot be read, are no outputs, or are too many.
        OSError: when the disk fails.
    """
    try:
        # Not through a link, and without waiting for the other end of a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"outputs: $ARCENTRA_OUTPUT cannot be opened: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OutputError("outputs: $ARCENTRA_OUTPUT is not a file any more")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _FILE_BYTES:
        raise OutputError("outputs: $ARCENTRA_OUTPUT is larger than 1 MiB")
    return parse_outputs(content)


def parse_outputs(content: bytes) -> dict[str, str]:
    """Read lines `name=value`, and `name<<END` with the lines of the value up to a line `END`; the last value counts.

    Raises:
        OutputError: names the first line that is wrong.
    """
    outputs: dict[str, str] = {}
    size, at = 0, 0
    lines = content.split(b"\n")
    while at < len(lines):
        number = at + 1
        line = _text(lines[at], number).removesuffix("\r")
        at += 1
        if not line:
            continue
        name, separator, rest = _parted(line)
        _check_name(name, separator, number)
        if separator == "<<":
            rest, at = _value_until(rest, lines, at)
        size += _size(name, rest) - (_size(name, outputs[name]) if name in outputs else 0)
        outputs[name] = rest
        _check_limits(len(outputs), size, f"line {number}: ")
    return outputs


def joined(written: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return what a step wrote together with what its plugin tells, which wins.

    Raises:
        OutputError: when it is too much.
    """
    outputs = {**written, **own}
    _check_limits(len(outputs), sum(_size(name, value) for name, value in outputs.items()))
    return outputs


def _parted(line: str) -> tuple[str, str, str]:
    """Part a line at `=` or `<<`, whichever comes first."""
    found = re.search(r"=|<<", line)
    return (line[: found.start()], found[0], line[found.end() :]) if found else (line, "", "")


def _value_until(end: str, lines: list[bytes], first: int) -> tuple[str, int]:
    """Return the text of the lines before the line `end`, and the place after that one."""
    if not end:
        raise OutputError(f"outputs: line {first}: expected the word that ends the value after <<")
    value: list[str] = []
    for at in range(first, len(lines)):
        line = _text(lines[at], at + 1)
        if line.removesuffix("\r") == end:
            return "\n".join(value).removesuffix("\r"), at + 1
        value.append(line)
    raise OutputError(f"outputs: line {first}: the value that begins here has no end: no line is the word after <<")


def _text(line: bytes, number: int) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OutputError(f"outputs: line {number}: is not valid UTF-8") from error
    if "\0" in text:
        raise OutputError(f"outputs: line {number}: contains a NUL character")
    return text


def _check_name(name: str, separator: str, number: int) -> None:
    if not separator:
        raise OutputError(f"outputs: line {number}: expected name=value or name<<END")
    if not _NAME.fullmatch(name):
        raise OutputError(
            f"outputs: line {number}: expected a name of at most 128 letters, digits, _ and -, a letter or _ first"
        )


def _size(name: str, value: str) -> int:
    return len(name) + len(value.encode())


def _check_limits(count: int, size: int, where: str = "") -> None:
    if count > MOST_OUTPUTS:
        raise OutputError(f"outputs: {where}more than {MOST_OUTPUTS} outputs")
    if size > MOST_BYTES:
        raise OutputError(f"outputs: {where}more than 64 KiB of names and values")
