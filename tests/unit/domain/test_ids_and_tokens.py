"""Ids, lease tokens, and the tokens of callers."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_server.domain.identity import (
    PREFIXES,
    USER_ROLES,
    ParsedToken,
    Role,
    TokenKind,
    format_token,
    parse_token,
)
from arcentra_server.domain.ids import ENTROPY_BYTES, parse_id, uuid7
from arcentra_server.domain.lease_tokens import LeaseTokens
from arcentra_server.domain.token_maker import TokenMaker

TIMES = st.integers(0, 2**48 - 2)
PARTS = st.integers(0, 999_999)
ENTROPY = st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES)
SECRETS = st.text("abcXYZ019-_", min_size=1, max_size=43)
IDS = st.text("abcdefgh234567", min_size=1, max_size=16)


@given(TIMES, PARTS, ENTROPY)
def test_uuid7_layout(unix_ms: int, part_ns: int, entropy: bytes) -> None:
    made = uuid7(unix_ms * 1_000_000 + part_ns, entropy)
    assert (made.version, made.variant, made.int >> 80) == (7, RFC_4122, unix_ms)
    assert (made.int >> 64) & 0xFFF == part_ns * 4096 // 1_000_000


def test_uuid7_uses_62_random_bits() -> None:
    lowest, highest = uuid7(0, bytes(ENTROPY_BYTES)).int, uuid7(0, b"\xff" * ENTROPY_BYTES).int
    assert lowest == 7 << 76 | 0b10 << 62
    assert (highest ^ lowest).bit_count() == 62


@given(TIMES, ENTROPY, ENTROPY)
def test_uuid7_sorts_by_time_down_to_a_part_of_a_millisecond(unix_ms: int, first: bytes, second: bytes) -> None:
    now = unix_ms * 1_000_000
    assert uuid7(now, first) < uuid7(now + 250, second) < uuid7(now + 1_000_000, first)


@pytest.mark.parametrize("length", [0, ENTROPY_BYTES - 1, ENTROPY_BYTES + 1])
def test_uuid7_refuses_other_entropy(length: int) -> None:
    with pytest.raises(ValueError, match=f"got {length}"):
        uuid7(0, bytes(length))


@given(TIMES, ENTROPY)
def test_id_reads_back(unix_ms: int, entropy: bytes) -> None:
    made = uuid7(unix_ms, entropy)
    assert parse_id(str(made)) == made


@pytest.mark.parametrize("text", ["", "run-1", "0" * 31, "0" * 33, "g" * 32, "\0" * 32])
def test_text_that_is_no_id(text: str) -> None:
    assert parse_id(text) is None


@given(st.uuids(), st.uuids(), st.binary(min_size=1), st.binary(min_size=1))
def test_lease_token_is_of_one_lease_and_one_key(one: UUID, other: UUID, key: bytes, second: bytes) -> None:
    tokens = LeaseTokens(key)
    text = tokens.token(one)
    assert tokens.is_token(one, text)
    assert tokens.is_token(other, text) == (one == other)
    assert LeaseTokens(second).is_token(one, text) == (key.rstrip(b"\0") == second.rstrip(b"\0"))


@given(st.uuids())
def test_lease_token_is_text_of_43_characters(lease_id: UUID) -> None:
    text = LeaseTokens(b"key").token(lease_id)
    assert len(text) == 43
    assert text.isascii()
    assert text == LeaseTokens(b"key").token(lease_id)


@pytest.mark.parametrize("text", ["", "x", "ä", "=" * 43])
def test_other_text_is_no_lease_token(text: str) -> None:
    assert not LeaseTokens(b"key").is_token(UUID(int=1), text)


@given(st.sampled_from(TokenKind), IDS, SECRETS)
def test_token_reads_back(kind: TokenKind, identity: str, secret: str) -> None:
    assert parse_token(format_token(kind, identity, secret)) == ParsedToken(kind, identity, secret)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "arc_pat",
        "arc_pat_",
        "arc_pat_id",
        "arc_pat_id_",
        "arc_pat__secret",
        "arc_pat_i\0d_secret",
        "arc_xyz_id_secret",
        " arc_pat_id_s",
        "ARC_PAT_id_s",
    ],
)
def test_text_that_is_no_token(text: str) -> None:
    assert parse_token(text) is None


def test_prefixes_tell_kinds_apart() -> None:
    assert set(PREFIXES) == set(TokenKind)
    assert not any(
        one.startswith(other) for one in PREFIXES.values() for other in PREFIXES.values() if one is not other
    )


def test_agents_are_no_users() -> None:
    assert set(USER_ROLES) == set(Role) - {Role.AGENT}


def _counting() -> Iterator[int]:
    yield from range(256)


@pytest.fixture
def maker() -> TokenMaker:
    numbers = _counting()
    return TokenMaker(b"pepper", lambda length: bytes(next(numbers) for _ in range(length)))


@pytest.mark.parametrize("kind", TokenKind)
def test_made_token_reads_back_and_matches(maker: TokenMaker, kind: TokenKind) -> None:
    made = maker.make(kind)
    parsed = parse_token(made.text)
    assert parsed is not None
    assert (parsed.kind, parsed.id, len(parsed.id), len(parsed.secret)) == (kind, made.id, 16, 43)
    assert maker.matches(parsed.secret, made.secret_hash)


def test_made_tokens_differ(maker: TokenMaker) -> None:
    one, other = maker.make(TokenKind.USER), maker.make(TokenKind.USER)
    assert one.id != other.id
    secret = one.text.rpartition("_")[2]
    assert not maker.matches(secret, other.secret_hash)


def test_hash_needs_the_pepper(maker: TokenMaker) -> None:
    assert not TokenMaker(b"other", bytes).matches("secret", maker.hash("secret"))
    assert b"secret" not in maker.hash("secret")
