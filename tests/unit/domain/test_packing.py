import gzip
import struct
import tracemalloc

import pytest
from backports import zstd

from arcentra_server.domain import packing
from arcentra_server.domain.errors import ValidationError
from arcentra_server.domain.packing import LARGEST_BATCH, Compression, check_packed, is_costly, unpack

RAW = b"a line of log\n" * 1_000


def streamed(raw: bytes, **options: int) -> bytes:
    """A zstd frame that does not state its size."""
    chosen: dict[int, int] = {zstd.CompressionParameter[name]: value for name, value in options.items()}
    encoder = zstd.ZstdCompressor(options=chosen)
    return encoder.compress(raw) + encoder.flush()


def padded(raw: bytes, size: int) -> bytes:
    """A gzip member whose header has an extra field of this size."""
    packed = gzip.compress(raw)
    return packed[:3] + b"\x04" + packed[4:10] + struct.pack("<H", size) + bytes(size) + packed[10:]


GOOD = [
    (Compression.NONE, RAW),
    (Compression.GZIP, gzip.compress(RAW)),
    (Compression.ZSTD, zstd.compress(RAW)),
    (Compression.ZSTD, streamed(RAW)),
]


@pytest.mark.parametrize(("compression", "data"), GOOD, ids=["none", "gzip", "zstd", "zstd of unstated size"])
def test_a_good_batch_is_taken_and_unpacks(compression: Compression, data: bytes) -> None:
    check_packed(compression, data, len(RAW))
    assert unpack(compression, data, len(RAW)) == RAW


@pytest.mark.parametrize("compression", Compression)
def test_an_empty_batch_is_good(compression: Compression) -> None:
    data = {Compression.NONE: b"", Compression.GZIP: gzip.compress(b""), Compression.ZSTD: zstd.compress(b"")}
    check_packed(compression, data[compression], 0)


@pytest.mark.parametrize("compression", Compression)
def test_a_batch_of_exactly_the_limit_is_good(compression: Compression) -> None:
    raw = bytes(LARGEST_BATCH)
    data = {Compression.NONE: raw, Compression.GZIP: gzip.compress(raw), Compression.ZSTD: streamed(raw)}
    check_packed(compression, data[compression], LARGEST_BATCH)


BAD = [
    ("more than the limit is stated", Compression.NONE, b"", LARGEST_BATCH + 1, packing.TOO_LARGE),
    ("not as many as stated", Compression.NONE, b"abc", 2, packing.WRONG_SIZE),
    ("gzip: more than stated", Compression.GZIP, gzip.compress(RAW), 10, "much larger|raw_size"),
    ("gzip: fewer than stated", Compression.GZIP, gzip.compress(RAW), len(RAW) + 1, packing.WRONG_SIZE),
    ("gzip: two members", Compression.GZIP, gzip.compress(RAW) * 2, len(RAW), packing.TRAILING),
    ("gzip: junk after it", Compression.GZIP, gzip.compress(RAW) + b"x", len(RAW), packing.TRAILING),
    ("gzip: cut off", Compression.GZIP, gzip.compress(RAW)[:-1], len(RAW), packing.DAMAGED),
    ("gzip: none at all", Compression.GZIP, RAW, len(RAW), packing.DAMAGED),
    ("zstd: another size stated", Compression.ZSTD, zstd.compress(RAW), len(RAW) + 1, packing.WRONG_SIZE),
    ("zstd: another size, not stated", Compression.ZSTD, streamed(RAW), len(RAW) + 1, packing.WRONG_SIZE),
    ("zstd: two frames", Compression.ZSTD, zstd.compress(RAW) * 2, len(RAW), packing.TRAILING),
    ("zstd: cut off", Compression.ZSTD, zstd.compress(RAW)[:-1], len(RAW), packing.DAMAGED),
    ("zstd: none at all", Compression.ZSTD, RAW, len(RAW), packing.DAMAGED),
    ("zstd: too short", Compression.ZSTD, b"\x28\xb5", 0, packing.DAMAGED),
    (
        "zstd: only skippable",
        Compression.ZSTD,
        b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"abcd",
        0,
        packing.DAMAGED,
    ),
    ("zstd: wide window", Compression.ZSTD, streamed(RAW, window_log=27), len(RAW), "window"),
    ("gzip: padding", Compression.GZIP, padded(b"x", 5_000), 1, "much larger"),
]


@pytest.mark.parametrize(
    ("compression", "data", "raw_size", "message"), [case[1:] for case in BAD], ids=[c[0] for c in BAD]
)
def test_a_bad_batch_is_refused(compression: Compression, data: bytes, raw_size: int, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        check_packed(compression, data, raw_size)


BOMB = bytes(256 << 20)


@pytest.mark.parametrize(
    ("compression", "data"),
    [
        (Compression.GZIP, gzip.compress(BOMB)),
        (Compression.ZSTD, zstd.compress(BOMB)),
        (Compression.ZSTD, streamed(BOMB)),
        # A header that states 64 GiB, on next to nothing.
        (Compression.ZSTD, b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 64 << 30) + b"\x01\x00\x00"),
    ],
    ids=["gzip", "zstd", "zstd streamed", "zstd forged"],
)
def test_a_bomb_is_refused_without_being_unpacked(compression: Compression, data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValidationError):
            check_packed(compression, data, LARGEST_BATCH)
        with pytest.raises(ValidationError):
            unpack(compression, data, LARGEST_BATCH)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_that_lies_about_its_content_is_taken_and_fails_when_it_is_read() -> None:
    data = bytearray(zstd.compress(RAW, options={zstd.CompressionParameter.checksum_flag: 1}))
    data[-1] ^= 0xFF
    check_packed(Compression.ZSTD, bytes(data), len(RAW))
    with pytest.raises(ValidationError, match=packing.DAMAGED):
        unpack(Compression.ZSTD, bytes(data), len(RAW))


def test_only_what_has_to_be_unpacked_and_is_large_is_costly() -> None:
    raw = bytes(LARGEST_BATCH)
    assert not is_costly(Compression.NONE, raw, len(raw))
    assert not is_costly(Compression.ZSTD, zstd.compress(raw), len(raw))
    assert is_costly(Compression.ZSTD, streamed(raw), len(raw))
    assert is_costly(Compression.GZIP, gzip.compress(raw), len(raw))
    assert not is_costly(Compression.GZIP, gzip.compress(RAW), len(RAW))
