"""How log batches are packed, and how they are checked and unpacked without trusting what they say of themselves.

A batch of 32 kB can claim, or unpack to, any number of bytes. So nothing here makes more than 1 MiB of output, and no
decoder gets a window of more than 8 MiB.
"""

from __future__ import annotations

import sys
import zlib
from enum import IntEnum

from arcentra_server.domain.errors import ValidationError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LARGEST_BATCH = 1 << 20
_WINDOW_LOG = 23
_DECODER: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SINGLE_SEGMENT = 0x20
# What packing may add to data that does not shrink, generously: a batch of many empty blocks is not stored for free.
_OVERHEAD = 1024
_OVERHEAD_SHIFT = 6
_COSTLY_BYTES = 1 << 17

TOO_LARGE = "log batch exceeds 1 MiB uncompressed"
TRAILING = "trailing data after the first frame or member"
DAMAGED = "data does not unpack"
WRONG_SIZE = "data does not unpack to raw_size bytes"


class Compression(IntEnum):
    """How the data of a batch is packed. The numbers are stored."""

    NONE = 1
    GZIP = 2
    ZSTD = 3


def is_costly(compression: Compression, data: bytes, raw_size: int) -> bool:
    """Tell whether `check_packed` may take more than about a millisecond, because it has to unpack."""
    if compression is Compression.NONE or raw_size < _COSTLY_BYTES:
        return False
    return compression is Compression.GZIP or not _states_size(data)


def check_packed(compression: Compression, data: bytes, raw_size: int) -> None:
    """Check that a batch is of the stated size and can be read later. Unpacks only what does not state its size.

    Raises:
        ValidationError: it is larger than 1 MiB, damaged, not a single frame, or not of the stated size.
    """
    if raw_size > LARGEST_BATCH:
        raise ValidationError.at("batch.raw_size", TOO_LARGE)
    stated = _framed_size(data) if compression is Compression.ZSTD else None
    if stated is None:
        unpack(compression, data, raw_size)
    elif stated > LARGEST_BATCH:
        raise ValidationError.at("batch.data", TOO_LARGE)
    elif stated != raw_size:
        raise ValidationError.at("batch.raw_size", WRONG_SIZE)
    if len(data) > raw_size + (raw_size >> _OVERHEAD_SHIFT) + _OVERHEAD:
        raise ValidationError.at("batch.data", "data is much larger than raw_size")


def unpack(compression: Compression, data: bytes, raw_size: int) -> bytes:
    """Return the raw bytes of a batch.

    Raises:
        ValidationError: it is damaged, larger than 1 MiB, not a single frame, or not of the stated size.
    """
    if compression is Compression.NONE:
        raw = data
    elif compression is Compression.GZIP:
        raw = _gunzip(data)
    else:
        raw = _unzstd(data)
    if len(raw) > LARGEST_BATCH:
        raise ValidationError.at("batch.data", TOO_LARGE)
    if len(raw) != raw_size:
        raise ValidationError.at("batch.raw_size", WRONG_SIZE)
    return raw


def pack(raw: bytes) -> bytes:
    """Return raw bytes as a zstd frame."""
    return zstd.compress(raw)


def _gunzip(data: bytes) -> bytes:
    decoder = zlib.decompressobj(wbits=31)
    try:
        raw = decoder.decompress(data, LARGEST_BATCH + 1)
    except zlib.error as error:
        raise ValidationError.at("batch.data", DAMAGED) from error
    _check_end(raw, ended=decoder.eof, trailing=decoder.unused_data)
    return raw


def _unzstd(data: bytes) -> bytes:
    decoder = zstd.ZstdDecompressor(options=_DECODER)
    try:
        raw = decoder.decompress(data, LARGEST_BATCH + 1)
    except zstd.ZstdError as error:
        raise ValidationError.at("batch.data", DAMAGED) from error
    _check_end(raw, ended=decoder.eof, trailing=decoder.unused_data)
    return raw


def _check_end(raw: bytes, *, ended: bool, trailing: bytes) -> None:
    if len(raw) > LARGEST_BATCH:
        raise ValidationError.at("batch.data", TOO_LARGE)
    if trailing:
        raise ValidationError.at("batch.data", TRAILING)
    if not ended:
        raise ValidationError.at("batch.data", DAMAGED)


def _states_size(data: bytes) -> bool:
    try:
        return zstd.get_frame_info(data).decompressed_size is not None
    except zstd.ZstdError:
        return True  # it is none, which is found out at no cost


def _framed_size(data: bytes) -> int | None:
    """Return the size that a zstd frame states, None if it does not.

    By the header (RFC 8878, section 3.1.1) it must be one frame, of no dictionary and no wide window.
    """
    if data[:4] != _ZSTD_MAGIC:
        raise ValidationError.at("batch.data", DAMAGED)
    try:
        size, info = zstd.get_frame_size(data), zstd.get_frame_info(data)
    except zstd.ZstdError as error:
        raise ValidationError.at("batch.data", DAMAGED) from error
    if size != len(data):
        raise ValidationError.at("batch.data", TRAILING)
    if info.dictionary_id:
        raise ValidationError.at("batch.data", "dictionaries are not supported")
    if not data[4] & _SINGLE_SEGMENT and _window(data[5]) > 1 << _WINDOW_LOG:
        raise ValidationError.at("batch.data", "the window of the frame exceeds 8 MiB")
    return info.decompressed_size


def _window(descriptor: int) -> int:
    base = 1 << (10 + (descriptor >> 3))
    return base + base // 8 * (descriptor & 7)
