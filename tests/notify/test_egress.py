"""Where notifications may go: no private address passes, in whatever notation and behind whatever name."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_server.notify.egress import Allowed, DestinationNotAllowed, Egress, Info, is_public

PRIVATE_V4 = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
    "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
)  # fmt: skip
PRIVATE_V6 = (
    "::/128",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "2001:db8::/32",
    "2002::/16",
    "::/96",
)
PUBLIC = ("1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e", "64:ff9b::101:101")
METADATA = ("169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "::ffff:169.254.169.254")


def in_networks(networks: Sequence[str]) -> st.SearchStrategy[Any]:
    return st.sampled_from([ipaddress.ip_network(network) for network in networks]).flatmap(
        lambda network: st.integers(int(network[0]), int(network[-1])).map(type(network[0]))
    )


private_v4 = in_networks(PRIVATE_V4)
private_v6 = in_networks(PRIVATE_V6)


def dotted(parts: Sequence[int], form: Callable[[int], str]) -> str:
    return ".".join(form(part) for part in parts)


def notations(address: ipaddress.IPv4Address) -> list[str]:
    """All ways of `inet_aton`, which the resolver of the system takes for addresses."""
    a, b, c, d = address.packed
    number = int(address)
    return [
        str(address),
        str(number),
        hex(number),
        oct(number).replace("0o", "0"),
        dotted((a, b, c, d), hex),
        dotted((a, b, c, d), lambda part: f"0{part:o}"),
        dotted((a, b, c, d), lambda part: f"{part:03o}".rjust(4, "0")),
        dotted((a, b, (c << 8) | d), str),
        dotted((a, (b << 16) | (c << 8) | d), str),
        f"{a}.{b:#x}.0{c:o}.{d}",
    ]


def answering(*addresses: str) -> Callable[..., list[Info]]:
    """A resolver that knows one answer for every name."""

    def resolve(_: Any, port: Any, *__: Any, **___: Any) -> list[Info]:
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, int(port or 0)),
            )
            for address in addresses
        ]

    return resolve


def refused(egress: Egress, host: str, port: int = 443) -> bool:
    """Whether a connection is refused, by the name or at the socket."""
    egress.begin()
    try:
        found = egress.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except DestinationNotAllowed:
        assert egress.refused
        return True
    except socket.gaierror:
        return True  # no address in this notation
    for info in found:
        egress.vet_connection(info[4])
    return False


@given(private_v4)
def test_no_private_ipv4_address_passes_in_any_notation(address: ipaddress.IPv4Address) -> None:
    egress = Egress(Allowed())
    for notation in notations(address):
        assert refused(egress, notation), notation
        with pytest.raises(DestinationNotAllowed):
            egress.vet_connection((notation, 443))


@given(private_v4)
def test_no_private_ipv4_address_passes_inside_of_an_ipv6_address(address: ipaddress.IPv4Address) -> None:
    inside = int(address)
    wraps = [
        ipaddress.IPv6Address((0xFFFF << 32) | inside),  # mapped
        ipaddress.IPv6Address(inside),  # compatible
        ipaddress.IPv6Address((0x64FF9B << 96) | inside),  # NAT64
        ipaddress.IPv6Address((0x2002 << 112) | (inside << 80)),  # 6to4
        ipaddress.IPv6Address((0x20010000 << 96) | (inside ^ 0xFFFF_FFFF)),  # Teredo
    ]
    for wrapped in wraps:
        assert not is_public(wrapped), wrapped
        assert refused(Egress(Allowed(), answering(str(wrapped))), "hooks.example.com")


@given(private_v6)
def test_no_private_ipv6_address_passes(address: ipaddress.IPv6Address) -> None:
    egress = Egress(Allowed())
    for notation in (str(address), address.exploded):
        assert refused(egress, notation)
        with pytest.raises(DestinationNotAllowed):
            egress.vet_connection((notation, 443, 0, 0))


@given(st.one_of(private_v4, private_v6), st.sampled_from(PUBLIC), st.booleans())
def test_no_name_passes_that_has_a_private_address_beside_others(address: Any, public: str, first: bool) -> None:
    answers = (str(address), public) if first else (public, str(address))
    assert refused(Egress(Allowed(), answering(*answers)), "hooks.example.com")


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    assert not refused(Egress(Allowed(), answering(address)), "hooks.example.com")


def test_mapped_addresses_are_refused_even_of_public_ones() -> None:
    assert refused(Egress(Allowed(), answering("::ffff:1.1.1.1")), "hooks.example.com")


def test_connection_goes_to_the_address_that_was_vetted_and_to_no_name() -> None:
    """A name that answers differently the second time is not asked a second time."""
    answers = iter(["1.1.1.1", "127.0.0.1"])
    egress = Egress(Allowed(), lambda *_, **__: answering(next(answers))("", 443))
    [info] = egress.getaddrinfo("hooks.example.com", 443)
    egress.vet_connection(info[4])
    for name in ("hooks.example.com", "localhost", "/run/docker.sock", b"/run/docker.sock"):
        with pytest.raises(DestinationNotAllowed):
            egress.vet_connection((name, 443) if isinstance(name, str) and "/" not in name else name)
    assert refused(egress, "hooks.example.com")


def test_what_was_vetted_holds_for_one_message() -> None:
    egress = Egress(Allowed.of(["hooks.internal:8443"]), answering("10.1.2.3"))
    egress.getaddrinfo("hooks.internal", 8443)
    egress.vet_connection(("10.1.2.3", 8443))
    with pytest.raises(DestinationNotAllowed):
        egress.vet_connection(("10.1.2.3", 443))
    egress.begin()
    with pytest.raises(DestinationNotAllowed):
        egress.vet_connection(("10.1.2.3", 8443))


@pytest.mark.parametrize(
    ("entry", "host", "port", "address", "passes"),
    [
        ("10.0.0.0/8", "x.internal", 443, "10.9.9.9", True),
        ("10.0.0.0/8", "x.internal", 443, "::ffff:10.9.9.9", True),
        ("10.0.0.0/8", "x.internal", 443, "11.0.0.1", True),
        ("10.0.0.0/8", "x.internal", 443, "192.168.0.1", False),
        ("10.1.2.3", "x.internal", 443, "10.1.2.3", True),
        ("10.1.2.3", "x.internal", 443, "10.1.2.4", False),
        ("fd00::/8", "x.internal", 443, "fd12::1", True),
        ("hooks.internal:8443", "hooks.internal", 8443, "10.1.2.3", True),
        ("Hooks.Internal:8443", "HOOKS.internal.", 8443, "10.1.2.3", True),
        ("hooks.internal:8443", "hooks.internal", 443, "10.1.2.3", False),
        ("hooks.internal:8443", "other.internal", 8443, "10.1.2.3", False),
        ("127.0.0.1:8443", "127.0.0.1", 8443, "127.0.0.1", True),
        ("127.0.0.1:8443", "localhost", 8443, "127.0.0.1", True),
        ("127.0.0.1:8443", "127.0.0.1", 22, "127.0.0.1", False),
        ("[::1]:8443", "::1", 8443, "::1", True),
    ],
)
def test_allow_list(entry: str, host: str, port: int, address: str, passes: bool) -> None:
    assert refused(Egress(Allowed.of([entry]), answering(address)), host, port) is not passes


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("allow", ["0.0.0.0/0", "::/0", "hooks.example.com:80"])
def test_no_allow_list_opens_the_metadata_of_a_cloud(address: str, allow: str) -> None:
    assert refused(Egress(Allowed.of([allow]), answering(address)), "hooks.example.com", 80)


@pytest.mark.parametrize(
    "entry", ["", "hooks.internal", "10.0.0.1/8", "hooks:0", "hooks:99999", "*.internal:443", "a b:1"]
)
def test_entries_of_the_allow_list_are_checked(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a network"):
        Allowed.of([entry])
