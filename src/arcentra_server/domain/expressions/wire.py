"""The wire form of protocol buffers, as far as reading a checked expression takes: the domain knows no generated code.

Expressions are read by the thousand when a large definition is saved, so nothing is copied: a field is its number with
the place of its bytes.
"""

from __future__ import annotations

import struct

_VARINT, _EIGHT_BYTES, _BYTES = 0, 1, 2

Field = tuple[int, int, int]
"""Number of a field, and where its bytes begin and end; of a varint its value, twice."""


def fields(data: bytes, index: int, end: int) -> list[Field]:
    """Return the fields of the message that stands between two places, in their order."""
    found = []
    while index < end:
        key = data[index]
        index += 1
        if key >= 0x80:
            key, index = _varint(data, index - 1)
        kind = key & 7
        if kind == _EIGHT_BYTES:
            found.append((key >> 3, index, index + 8))
            index += 8
            continue
        value = data[index]
        index += 1
        if value >= 0x80:
            value, index = _varint(data, index - 1)
        if kind == _BYTES:
            found.append((key >> 3, index, index + value))
            index += value
        elif kind == _VARINT:
            found.append((key >> 3, value, value))
        else:
            raise ValueError(f"wire type {kind} is not known")
    return found


def signed(value: int) -> int:
    """Return a varint as a number of 64 bits with a sign."""
    return value - (1 << 64) if value >> 63 else value


def double(data: bytes, index: int) -> float:
    """Return the number of eight bytes."""
    value: float = struct.unpack_from("<d", data, index)[0]
    return value


def _varint(data: bytes, index: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[index]
        index += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index
        shift += 7
