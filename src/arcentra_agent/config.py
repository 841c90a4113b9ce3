"""What the command line decided, checked once and then read-only."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

_LABEL_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE_LIMIT = 256
_LOOPBACK = ("127.", "localhost:", "[::1]:")


class ConfigError(ValueError):
    """An option has a value the agent cannot work with; the text says which and why."""


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """One agent. Times are seconds."""

    server: str
    work_dir: Path
    name: str
    capacity: int
    labels: dict[str, str]
    registration_token: str = ""
    kill_grace: float = 10.0
    drain_timeout: float = 60.0
    pass_env: tuple[str, ...] = ()

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


def parse_labels(text: str) -> dict[str, str]:
    """Read `key=value,key=value`; an empty text has no labels.

    Raises:
        ConfigError: for a part without `=`, a key that is no label key, a value that is too long, or a key given twice.
    """
    labels: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not _LABEL_KEY.fullmatch(key):
            raise ConfigError(f"--labels: expected key=value, got {part!r}")
        if len(value) > _LABEL_VALUE_LIMIT:
            raise ConfigError(f"--labels: the value of {key!r} is longer than {_LABEL_VALUE_LIMIT} characters")
        if key in labels:
            raise ConfigError(f"--labels: {key!r} is given twice")
        labels[key] = value
    return labels
