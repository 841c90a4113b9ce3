"""Addresses of servers: `HOST`, `HOST:PORT`, `[IPv6]:PORT`, with `grpc://` or `grpcs://` before them."""

import ipaddress
from dataclasses import dataclass, replace

from arcentra_cli.errors import CliError

DEFAULT_PORT = 9090
DEFAULT_SERVER = f"127.0.0.1:{DEFAULT_PORT}"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, and whether it is spoken to over TLS."""

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the server runs on this very host, so that clear text cannot be overheard."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def over_tls(self, tls: bool) -> "Address":
        return replace(self, tls=self.tls or tls)


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        CliError: `text` is no address.
    """
    scheme, separator, rest = text.strip().rpartition("://")
    if separator and scheme not in {"grpc", "grpcs"}:
        raise CliError(f"server address {text!r}: the scheme is grpc:// or grpcs://")
    host, port = _split(rest.rstrip("/"))
    if not host or any(c in host for c in "/@ "):
        raise CliError(f"server address {text!r}: expected HOST:PORT")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise CliError(f"server address {text!r}: {port!r} is not a port")
    return Address(host, int(port), tls=scheme == "grpcs")


def _split(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, tail = text[1:].partition("]")
        return host, tail.removeprefix(":") or str(DEFAULT_PORT)
    if text.count(":") > 1:  # a bare IPv6 address has no room for a port
        return text, str(DEFAULT_PORT)
    host, _, port = text.partition(":")
    return host, port or str(DEFAULT_PORT)
