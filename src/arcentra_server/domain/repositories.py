"""Whether two addresses are of one repository, and which sources of a run are those that its trigger is about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443, "ssh": 22, "git": 9418}
# `git@host:team/app.git`. One letter before the colon is a drive.
_SHORT_SSH = re.compile(r"(?:[^@/:]+@)?(\[[0-9A-Fa-f:.]+\]|[^@/:\[\]]{2,}):(?!//)(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Repository:
    """The repository of an event as its sender names it: `urls` to clone it from, and its full name, `team/app`."""

    urls: tuple[str, ...] = ()
    name: str = ""

    @property
    def known(self) -> bool:
        """Whether the sender names one at all."""
        return bool(self.urls or self.name)

    def is_at(self, address: str) -> bool:
        """Answer whether an address is one of this repository. The name counts only when there is no address of it."""
        if self.urls:
            return any(same_repository(address, url) for url in self.urls)
        path = _Place.of(address).path
        return bool(self.name) and f"/{path}".casefold().endswith(f"/{self.name.strip('/')}".casefold())


def same_repository(one: str, other: str) -> bool:
    """Answer whether two addresses are of one repository, however it is reached.

    Scheme, user, `.git` and slashes at the ends do not count, and of the ports of SSH and HTTP each only among its own:
    they differ anyway. At a host neither the case of its name counts nor that of the path, as at all code hosts. Of a path
    without a host the slash in front counts: without one it is another folder.
    """
    return _Place.of(one).is_like(_Place.of(other))


def asked_addresses(addresses: Sequence[str], repository: Repository) -> frozenset[str]:
    """Return the addresses of the sources that branch and commit of a trigger go to.

    Args:
        addresses: Those of all sources of a run, in the order of the definition.
        repository: That of the event. When none is known, as somebody or a schedule started the run, it is that of the
            first source.
    """
    if repository.known:
        return frozenset(address for address in addresses if repository.is_at(address))
    return frozenset(address for address in addresses if same_repository(address, addresses[0]))


@dataclass(frozen=True, slots=True)
class _Place:
    """An address, taken apart. `host`: empty for a folder. `port`: None for the usual one."""

    host: str
    port: int | None
    path: str
    by_ssh: bool = False

    @classmethod
    def of(cls, address: str) -> _Place:
        address = address.strip()
        if "://" not in address:
            found = _SHORT_SSH.fullmatch(address)
            if found is None:
                return cls("", None, _folder(address))
            return cls(found[1].strip("[]").casefold(), None, _trimmed(found[2]), by_ssh=True)
        try:
            parts = urlsplit(address)
            host, port = parts.hostname or "", parts.port
        except ValueError:  # it is no address, so it is only like itself
            return cls("", None, _folder(address))
        scheme = parts.scheme.removeprefix("git+").removesuffix("+git")
        if scheme == "file":
            host = ""
        path = _trimmed(parts.path) if host else _folder(parts.path)
        return cls(host, None if port == _PORTS.get(scheme) else port, path, by_ssh=scheme == "ssh")

    def is_like(self, other: _Place) -> bool:
        if self.host != other.host or (self.by_ssh == other.by_ssh and self.port != other.port):
            return False
        if self.host:
            return self.path.casefold() == other.path.casefold()
        return self.path == other.path


def _trimmed(path: str) -> str:
    return path.strip("/").removesuffix(".git").rstrip("/")


def _folder(path: str) -> str:
    """Return a path without a host, which is another one with a slash in front than without."""
    return f"/{_trimmed(path)}" if path.startswith("/") else _trimmed(path)
