"""Identifiers: UUIDv7, so that ids sort by the time they were made."""

from __future__ import annotations

from uuid import UUID

ENTROPY_BYTES = 10


def uuid7(unix_ms: int, entropy: bytes) -> UUID:
    """Build a UUID version 7 (RFC 9562, section 5.7).

    Args:
        unix_ms: Milliseconds since the Unix epoch, 48 bits.
        entropy: Ten random bytes; 74 of their bits are used.
    """
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"a UUIDv7 takes {ENTROPY_BYTES} random bytes, got {len(entropy)}")
    random_bits = int.from_bytes(entropy, "big")
    high = (unix_ms & 0xFFFF_FFFF_FFFF) << 16 | 0x7000 | (random_bits >> 68)
    low = 0b10 << 62 | (random_bits & 0x3FFF_FFFF_FFFF_FFFF)
    return UUID(int=high << 64 | low)


def parse_id(text: str) -> UUID | None:
    """Return the id that a caller wrote, or None when it is not an id at all (which no row can have)."""
    try:
        return UUID(text)
    except ValueError:
        return None
