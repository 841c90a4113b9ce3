"""A user name and password for git over https: given to git when it asks, and kept nowhere.

They stand neither in an address nor in an argument, nor in the configuration of the clone: git runs a script of the
step's scratch directory that answers from the environment, and answers for the host of the repository alone. A
submodule or a redirection that leads elsewhere gets nothing.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from arcentra_agent.plugins import arguments
from arcentra_agent.plugins.arguments import ArgumentError
from arcentra_agent.plugins.base import Args, write_private

ACCESS_ARGS = ("username", "password", "token")
# No helper of this host may answer first, or be told the password to store it. Without paths, the question ends with
# the host.
ASK_NO_HELPER = ("-c", "credential.helper=", "-c", "credential.useHttpPath=false")
# What code hosts take for the user when there is a token.
_DEFAULT_USERNAME = "x-access-token"
# git asks: Username for 'https://host': , and: Password for 'https://user@host': .
_ASKPASS = """#!/bin/sh
case $1 in
*"'$ARCENTRA_GIT_SCHEME://$ARCENTRA_GIT_HOST': ") printf '%s\\n' "$ARCENTRA_GIT_USERNAME" ;;
*"'$ARCENTRA_GIT_SCHEME://"*"@$ARCENTRA_GIT_HOST': ") printf '%s\\n' "$ARCENTRA_GIT_PASSWORD" ;;
*) echo "no password was given for what git asks: $1" >&2; exit 1 ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Access:
    """Who git is to the server."""

    username: str
    password: str = field(repr=False)


def parse_access(args: Args) -> Access | None:
    """Read the arguments `username`, `password` and `token`, which goes before the password; empty ones are absent.

    Raises:
        ArgumentError: see there.
    """
    username, password, token = (arguments.line(args, name) for name in ACCESS_ARGS)
    if token:
        return Access(username or _DEFAULT_USERNAME, token)
    if password and not username:
        raise ArgumentError("args.username: a password needs a user name")
    if username and not password:
        raise ArgumentError("args.password: a user name needs a password or a token")
    return Access(username, password) if password else None


def check_address(repo: str) -> str:
    """Return the address of a repository as given.

    Raises:
        ArgumentError: when there is a password in it, or a user name that may be a token.
    """
    address = _split(repo)
    if address.password is not None or (address.username is not None and address.scheme in {"http", "https"}):
        raise ArgumentError("args.repo: must hold no user name or password; use args.username, password and token")
    return repo


def check_is_private(repo: str) -> None:
    """Hold that a password to this repository cannot be read on its way.

    Raises:
        ArgumentError: when the address is not one of https, or of this host.
    """
    address = _split(repo)
    host = address.hostname or ""
    is_local = host in {"localhost", "::1"} or host.startswith("127.")
    if address.scheme != "https" and not (address.scheme == "http" and is_local):
        raise ArgumentError("args.repo: user name, password and token need an https:// address")


@contextlib.contextmanager
def answering(access: Access, repo: str, scratch: Path) -> Iterator[Mapping[str, str]]:
    """Give the environment in which git gets its questions about the host of `repo` answered."""
    script = scratch / "askpass"
    write_private(script, _ASKPASS, 0o700)
    address = _split(repo)
    try:
        yield {
            "GIT_ASKPASS": str(script),
            "ARCENTRA_GIT_SCHEME": address.scheme,
            "ARCENTRA_GIT_HOST": address.netloc,
            "ARCENTRA_GIT_USERNAME": access.username,
            "ARCENTRA_GIT_PASSWORD": access.password,
        }
    finally:
        script.unlink(missing_ok=True)


def _split(repo: str) -> SplitResult:
    try:
        return urlsplit(repo)
    except ValueError as error:
        raise ArgumentError("args.repo: is not an address") from error
