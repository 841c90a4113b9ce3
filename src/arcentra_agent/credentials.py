"""The agent's identity on disk: one file, readable by its owner alone, replaced as a whole or not at all."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

# A credential fits in.
_RESERVED = 4096


class CredentialError(Exception):
    """The credential file cannot be read as one; the text names the file and the way out."""


@dataclass(frozen=True, slots=True)
class Credential:
    """Who the agent is to the server it joined."""

    agent_id: str
    token: str = field(repr=False)


def load_credential(path: Path) -> Credential | None:
    """Return the stored credential, or None when the agent has not joined yet.

    Raises:
        CredentialError: when the file is there and is not a credential.
    """
    try:
        stored = json.loads(path.read_text("utf-8"))
        return Credential(agent_id=str(stored["agent_id"]), token=str(stored["token"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CredentialError(f"{path} is not a credential ({error}); remove it to join anew") from error


def reserve_room(path: Path) -> None:
    """Take the room on the disk that the next credential needs: once the server has given it, it must not get lost.

    Raises:
        OSError: when there is none, or the file cannot be written.
    """
    _write_draft(path, bytes(_RESERVED))


def save_credential(path: Path, credential: Credential) -> None:
    """Store the credential durably: after this returns, a power cut leaves this one or, before it, the old one.

    Raises:
        OSError: when the file cannot be written.
    """
    _write_draft(path, json.dumps(asdict(credential)).encode()).replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write_draft(path: Path, data: bytes) -> Path:
    draft = path.with_name(path.name + ".new")
    # Not truncated before it is written: the room that was reserved would be given back.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        # The mode above holds for a new file only; one left behind by a crash may be wider.
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
        file.truncate()
        os.fsync(file.fileno())
    return draft
