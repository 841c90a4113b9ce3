"""What the command line decided, checked once and then read-only."""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# With a `!` before it the agent is for those only that ask for the label.
_LABEL_KEY = re.compile(r"!?[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE_LIMIT = 256
_LOOPBACK = ("127.", "localhost:", "[::1]:")
_SIZE = re.compile(r"([0-9]{1,15})\s*(?:([KMGT])(?:iB)?|B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class ConfigError(ValueError):
    """An option has a value the agent cannot work with; the text says which and why."""


class HostPort(NamedTuple):
    """An address to listen on; port 0 is any that is free."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """One agent. Times are seconds.

    `labels` are those of `label_option` and `label_file`, which may be read again. `container_runtime` is a command
    line, empty for whatever is there. `spool_limit` is the bytes of logs that may be on the disk, 0 for any number.
    """

    server: str
    work_dir: Path
    name: str
    capacity: int
    labels: dict[str, str]
    registration_token: str = ""
    kill_grace: float = 10.0
    drain_timeout: float = 60.0
    pass_env: tuple[str, ...] = ()
    label_option: str = ""
    label_file: Path | None = None
    container_runtime: tuple[str, ...] = ()
    container_options: tuple[str, ...] = ()
    spool_limit: int = 0
    health_listen: HostPort | None = None
    once: bool = False

    @property
    def server_is_local(self) -> bool:
        return self.server.startswith(_LOOPBACK)


def default_work_dir() -> Path:
    """Return where an agent keeps its state when nothing else is said."""
    if os.geteuid() == 0:
        return Path("/var/lib/arcentra-agent")
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "arcentra-agent"


def check_server(address: str) -> str:
    """Return `HOST:PORT` as given.

    Raises:
        ConfigError: when host or port is missing.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"--server: expected HOST:PORT, got {address!r}")
    return address


def check_listen(address: str) -> HostPort | None:
    """Return where to listen by `HOST:PORT`; None for an empty text.

    Raises:
        ConfigError: when host or port is missing.
    """
    if not address:
        return None
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--health-listen: expected HOST:PORT, got {address!r}")
    return HostPort(host.strip("[]"), int(port))


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `512MiB` or `10G`, all units being powers of 1024.

    Raises:
        ConfigError: when it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"--spool-limit: expected a size such as 512MiB or 10GiB, got {text!r}")
    return int(found[1]) * _UNITS[(found[2] or "").upper()]


def parse_words(text: str, option: str) -> tuple[str, ...]:
    """Return the words of a command line.

    Raises:
        ConfigError: when a quote is not closed.
    """
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigError(f"{option}: not a command line: {error}") from error


def read_labels(option: str, file: Path | None) -> dict[str, str]:
    """Return the labels of the option and of the file, whose lines are `key=value` or begin with `#`; the file wins.

    Raises:
        ConfigError: as `parse_labels`, or when the file cannot be read.
    """
    labels = parse_labels(option)
    if file is None:
        return labels
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--labels-file: cannot read {file}: {error}") from error
    return {**labels, **_labels([line for line in lines if line and not line.startswith("#")], f"{file}")}


def parse_labels(text: str) -> dict[str, str]:
    """Read `key=value,key=value`; an empty text has no labels.

    Raises:
        ConfigError: for a part without `=`, a key that is no label key, a value that is too long, or a key given twice.
    """
    return _labels([part for piece in text.split(",") if (part := piece.strip())], "--labels")


def _labels(parts: list[str], where: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not _LABEL_KEY.fullmatch(key):
            raise ConfigError(f"{where}: expected key=value, got {part!r}")
        if len(value) > _LABEL_VALUE_LIMIT:
            raise ConfigError(f"{where}: the value of {key!r} is longer than {_LABEL_VALUE_LIMIT} characters")
        if key in labels:
            raise ConfigError(f"{where}: {key!r} is given twice")
        labels[key] = value
    return labels
