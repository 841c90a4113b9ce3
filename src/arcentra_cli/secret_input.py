"""Reads a secret from a file or standard input, so that it stands in no list of processes and no shell history."""

import sys
from pathlib import Path

from arcentra_cli.errors import CliError

LARGEST_SECRET = 1 << 16
STANDARD_INPUT = Path("-")


def read_secret(path: Path | None) -> str:
    """The text of a file, `-` for standard input, without the line break at its end; empty for no file.

    Raises:
        CliError: it cannot be read, or is no text.
    """
    return read_value(path).rstrip("\r\n") if path else ""


def read_value(path: Path) -> str:
    """The text of a file, `-` for standard input: one line without the line break at its end, several as they are.

    Raises:
        CliError: it cannot be read, or is no text.
    """
    try:
        data = sys.stdin.buffer.read(LARGEST_SECRET + 1) if path == STANDARD_INPUT else path.read_bytes()
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > LARGEST_SECRET:
        raise CliError(f"{path}: larger than {LARGEST_SECRET >> 10} KiB")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CliError(f"{path}: not UTF-8 at byte {error.start}") from error
    line = text.rstrip("\r\n")
    if not line:
        raise CliError(f"{path}: is empty")
    return text if "\n" in line else line
