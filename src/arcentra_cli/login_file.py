"""What `arcentra login` keeps: one credential a server, in a file that only its owner can read."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from arcentra_cli.errors import CliError


@dataclass(frozen=True, slots=True)
class Login:
    """How to reach one server, and as whom."""

    token: str
    tls: bool = False
    ca_file: str = ""
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Logins:
    """Every stored login by server address, and the server used when none is named."""

    current: str = ""
    servers: Mapping[str, Login] = field(default_factory=dict)

    def with_login(self, server: str, login: Login) -> "Logins":
        """The logins with one more, which becomes the current one."""
        return Logins(server, {**self.servers, server: login})


def login_path(env: Mapping[str, str]) -> Path:
    """Path of the file: `$XDG_CONFIG_HOME/arcentra/config.json`, `~/.config` when the variable is unset."""
    base = env.get("XDG_CONFIG_HOME") or str(Path(env.get("HOME") or Path.home()) / ".config")
    return Path(base) / "arcentra" / "config.json"


def load_logins(path: Path) -> Logins:
    """Read the stored logins; none when the file does not exist.

    Raises:
        CliError: the file cannot be read, or is not what `save_logins` writes.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return Logins()
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}") from error
    try:
        document: dict[str, Any] = json.loads(text)
        servers = {server: Login(**login) for server, login in document["servers"].items()}
        return Logins(str(document["current"]), servers)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CliError(f"{path} is damaged: log in again with `arcentra login` after removing it") from error


def save_logins(path: Path, logins: Logins) -> None:
    """Write the file in one step with mode 0600, so that a token is never readable by others, not even for a moment.

    Raises:
        CliError: the file cannot be written.
    """
    document = {"current": logins.current, "servers": {name: asdict(login) for name, login in logins.servers.items()}}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".config-")  # mkstemp gives mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=2)
                file.write("\n")
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}") from error
