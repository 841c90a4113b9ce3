"""Where this process may connect to: addresses of the public internet, and what the operator allows beyond.

A name is resolved once, every address that it has is vetted, and the connection goes to one of these: a name that
answers differently the second time is not asked a second time. `patches.py` puts all connections through here.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Info = tuple[Any, Any, int, str, tuple[Any, ...]]
"""What `socket.getaddrinfo` answers for each address."""

Resolve = Callable[..., Sequence[Info]]
NOT_ALLOWED = "destination not allowed"

# The special purpose registries of IANA, written out: what `ipaddress` calls private differs between versions of Python.
_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
# Within it: protocol assignments with Teredo, documentation, 6to4, AS112, and segment routing.
_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20", "3ffe::/16")
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Clouds hand out the credentials of a machine there. No allow-list opens them.
_METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in (
        "169.254.169.254",
        "169.254.169.253",
        "169.254.170.2",
        "169.254.170.23",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
    )
)


class DestinationNotAllowed(OSError):
    """A connection was refused. An `OSError`, so that libraries take it for a connection that failed."""

    def __init__(self) -> None:
        super().__init__(NOT_ALLOWED)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the operator allows beyond the public internet. `hosts`: names or addresses, in lower case, with a port."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[tuple[str, int]] = frozenset()

    @classmethod
    def of(cls, entries: Collection[str]) -> Allowed:
        """Read entries: `10.0.0.0/8`, `10.1.2.3`, `fd00::/8`, `hooks.internal:8443`, `[::1]:8443`.

        Raises:
            ValueError: an entry is none of these.
        """
        networks: list[Network] = []
        hosts: set[tuple[str, int]] = set()
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry))
            except ValueError:
                hosts.add(_host_and_port(entry))
        return cls(tuple(networks), frozenset(hosts))


class Egress:
    """Vets destinations.

    Args:
        allowed: What the operator allows.
        resolve: Finds the addresses of a name, as `socket.getaddrinfo` does.
    """

    def __init__(self, allowed: Allowed, resolve: Resolve = socket.getaddrinfo) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._vetted: set[tuple[str, int]] = set()
        self.refused = False
        self.unknown_host = False

    def begin(self) -> None:
        """Begin a new message: what was vetted for the last one is forgotten."""
        self._vetted.clear()
        self.refused = self.unknown_host = False

    def getaddrinfo(self, host: Any, port: Any, *more: Any, **named: Any) -> Sequence[Info]:
        """Resolve a name and vet all that it answers; in place of `socket.getaddrinfo`.

        Raises:
            DestinationNotAllowed: one of the addresses is not allowed.
            socket.gaierror: there is no such name.
        """
        try:
            found = self._resolve(host, port, *more, **named)
        except (socket.gaierror, UnicodeError):
            self.unknown_host = True
            raise
        name = _text(host)
        for info in found:
            address, number = info[4][0], int(info[4][1])
            if not self._may_reach(name, address, number):
                raise self.refuse()
            self._vetted.add((address, number))
        return found

    def vet_connection(self, address: Any) -> None:
        """Let a socket connect to an address that was vetted, or that can be vetted as it is.

        Raises:
            DestinationNotAllowed: it is not allowed, or is a name, which nobody has vetted.
        """
        if not isinstance(address, tuple) or len(address) < 2:
            raise self.refuse()  # a socket of the file system, or of the kernel
        host, port = _text(address[0]), int(address[1])
        if (host, port) not in self._vetted and not self._may_reach(host, host, port):
            raise self.refuse()

    def refuse(self) -> DestinationNotAllowed:
        """Note that something was refused, which a library may keep to itself, and return the error."""
        self.refused = True
        return DestinationNotAllowed()

    def _may_reach(self, name: str, address: str, port: int) -> bool:
        try:
            # A zone, `%eth0`, has a meaning on one link only: such an address is not global.
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        meant = _embedded(parsed) or parsed
        if meant in _METADATA:
            return False
        if is_public(parsed) or any(meant in network for network in self._allowed.networks):
            return True
        names = {(name.lower().rstrip("."), port), (str(parsed), port)}
        return not names.isdisjoint(self._allowed.hosts)


def is_public(address: Address) -> bool:
    """Answer whether an address is one of the public internet, and no other address in disguise."""
    if isinstance(address, ipaddress.IPv4Address):
        return address not in _METADATA and not any(address in network for network in _REFUSED_V4)
    if address.scope_id:
        return False
    if address in _NAT64:
        embedded = _embedded(address)
        return embedded is not None and is_public(embedded)
    return address in _GLOBAL_V6 and not any(address in network for network in _REFUSED_V6)


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address leads to, None for one that leads to itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if address in _NAT64 else address.ipv4_mapped


def _host_and_port(entry: str) -> tuple[str, int]:
    host, _, port = entry.rpartition(":")
    host = host.strip("[]").lower().rstrip(".")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536 or any(mark in host for mark in "/@ *"):
        raise ValueError(f"{entry!r} is neither a network (10.0.0.0/8), nor an address, nor HOST:PORT")
    return host, int(port)


def _text(host: Any) -> str:
    return host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host or "")
