"""Identifiers: UUIDv7, so that ids sort by the time they were made."""

from __future__ import annotations

from uuid import UUID

ENTROPY_BYTES = 8
_MILLISECOND = 1_000_000


def uuid7(unix_ns: int, entropy: bytes) -> UUID:
    """Build a UUID version 7 (RFC 9562, sections 5.7 and 6.2, method 3).

    The 12 bits after the milliseconds hold the part of the millisecond, so that ids sort down to a quarter of a
    microsecond.

    Args:
        unix_ns: Nanoseconds since the Unix epoch.
        entropy: Eight random bytes; 62 of their bits are used.
    """
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"a UUIDv7 takes {ENTROPY_BYTES} random bytes, got {len(entropy)}")
    milliseconds, rest = divmod(unix_ns, _MILLISECOND)
    high = (milliseconds & 0xFFFF_FFFF_FFFF) << 16 | 0x7000 | (rest << 12) // _MILLISECOND
    low = 0b10 << 62 | (int.from_bytes(entropy, "big") & 0x3FFF_FFFF_FFFF_FFFF)
    return UUID(int=high << 64 | low)


def parse_id(text: str) -> UUID | None:
    """Return the id that a caller wrote, or None when it is not an id at all (which no row can have)."""
    try:
        return UUID(text)
    except ValueError:
        return None
