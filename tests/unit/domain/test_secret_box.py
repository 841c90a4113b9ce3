"""Secrets at rest: what was sealed opens, for what it was sealed for, and nothing else does."""

import os
from base64 import b64encode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_server.domain.errors import SecretUnreadable
from arcentra_server.domain.secret_box import (
    DAMAGED,
    KEY_UNAVAILABLE,
    KeyRing,
    Sealed,
    WrappedKey,
    make_key_line,
    open_sealed,
    parse_keys,
)

VALUE = b"planted-value"
NAME = ("secret", "default", "", "TOKEN", "1")


def ring(*ids: str) -> KeyRing:
    return KeyRing({key_id: os.urandom(32) for key_id in ids or ("k1",)})


def opened(keys: KeyRing, sealed: Sealed, name: tuple[str, ...] = NAME) -> bytes:
    return open_sealed(sealed, name, keys.unwrap(sealed.key, name))


@given(st.binary(max_size=200), st.lists(st.text(max_size=20), min_size=1, max_size=6).map(tuple))
def test_what_was_sealed_opens(value: bytes, name: tuple[str, ...]) -> None:
    keys = ring()
    sealed = keys.seal(value, name, os.urandom)
    assert opened(keys, sealed, name) == value
    assert len(value) < 4 or value not in sealed.blob + sealed.key.blob


def test_no_two_of_a_value_look_alike() -> None:
    keys = ring()
    one, two = keys.seal(VALUE, NAME, os.urandom), keys.seal(VALUE, NAME, os.urandom)
    assert one.blob != two.blob
    assert keys.unwrap(one.key, NAME) != keys.unwrap(two.key, NAME)


def test_every_flipped_bit_is_refused() -> None:
    keys = ring()
    sealed = keys.seal(VALUE, NAME, os.urandom)
    for index in range(len(sealed.blob)):
        with pytest.raises(SecretUnreadable, match=DAMAGED):
            opened(keys, replace(sealed, blob=flipped(sealed.blob, index)))
    for index in range(len(sealed.key.blob)):
        with pytest.raises(SecretUnreadable, match=KEY_UNAVAILABLE):
            opened(keys, replace(sealed, key=replace(sealed.key, blob=flipped(sealed.key.blob, index))))


def flipped(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


@pytest.mark.parametrize("size", [0, 5, 12, 27])
def test_what_is_cut_short_is_refused(size: int) -> None:
    keys = ring()
    sealed = keys.seal(VALUE, NAME, os.urandom)
    with pytest.raises(SecretUnreadable, match=DAMAGED):
        opened(keys, replace(sealed, blob=sealed.blob[:size]))
    with pytest.raises(SecretUnreadable, match=KEY_UNAVAILABLE):
        opened(keys, replace(sealed, key=replace(sealed.key, blob=sealed.key.blob[:size])))


@pytest.mark.parametrize(
    "other",
    [
        ("hook", "default", "", "TOKEN", "1"),
        ("secret", "other", "", "TOKEN", "1"),
        ("secret", "default", "p", "TOKEN", "1"),
        ("secret", "default", "", "TOKEM", "1"),
        ("secret", "default", "", "TOKEN", "2"),
        # The same texts, joined in other places.
        ("secretdefault", "", "TOKEN", "1"),
        ("secret", "default", "TOKEN", "", "1"),
        ("secret", "default", "", "TOKEN1", ""),
    ],
)
def test_a_value_opens_for_what_it_was_sealed_for_and_nothing_else(other: tuple[str, ...]) -> None:
    keys = ring()
    sealed = keys.seal(VALUE, NAME, os.urandom)
    with pytest.raises(SecretUnreadable, match=KEY_UNAVAILABLE):
        keys.unwrap(sealed.key, other)
    with pytest.raises(SecretUnreadable, match=DAMAGED):
        open_sealed(sealed, other, keys.unwrap(sealed.key, NAME))
    with pytest.raises(SecretUnreadable, match=DAMAGED):
        opened(keys, replace(sealed, algorithm="AES-128-GCM"))


def test_what_is_swapped_is_refused() -> None:
    keys = ring()
    one, two = keys.seal(VALUE, NAME, os.urandom), keys.seal(b"another one", NAME, os.urandom)
    with pytest.raises(SecretUnreadable, match=DAMAGED):
        opened(keys, replace(one, blob=two.blob))
    with pytest.raises(SecretUnreadable, match=DAMAGED):
        opened(keys, replace(one, key=two.key))


def test_another_key_of_the_same_id_and_a_key_that_is_gone_are_told_alike() -> None:
    sealed = ring("k1").seal(VALUE, NAME, os.urandom)
    for keys in (ring("k1"), ring("k2")):
        with pytest.raises(SecretUnreadable, match=KEY_UNAVAILABLE):
            keys.unwrap(sealed.key, NAME)


def test_a_key_is_replaced_without_touching_the_value() -> None:
    old = {"old": os.urandom(32)}
    sealed = KeyRing(old).seal(VALUE, NAME, os.urandom)
    both = KeyRing({"new": os.urandom(32), **old})
    assert opened(both, sealed) == VALUE
    again = replace(sealed, key=both.wrap(both.unwrap(sealed.key, NAME), NAME, os.urandom))
    assert (again.key.key_id, again.blob) == ("new", sealed.blob)
    assert opened(both, again) == VALUE
    with pytest.raises(SecretUnreadable):
        opened(KeyRing(old), again)
    # Nor does it help to say that the new key was the old one.
    with pytest.raises(SecretUnreadable):
        opened(both, replace(again, key=WrappedKey("old", again.key.blob)))


def test_a_key_file_is_read_the_newest_key_first() -> None:
    lines = [make_key_line(os.urandom) for _ in range(3)]
    keys = parse_keys("# keys\n\n" + "".join(lines))
    assert [f"{key_id} {b64encode(key).decode()}\n" for key_id, key in keys.items()] == lines
    assert KeyRing(keys).key_ids == tuple(keys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no key"),
        ("# nothing\n", "no key"),
        ("k1", "line 1: the key is not 32 bytes"),
        ("k1 " + b64encode(b"x" * 31).decode(), "line 1: the key is not 32 bytes"),
        ("k1 " + b64encode(b"x" * 32).decode() + "!", "line 1: the key is not 32 bytes"),
        ("\nk/1 " + b64encode(b"x" * 32).decode(), "line 2: a line is an id"),
        (("k1 " + b64encode(b"x" * 32).decode() + "\n") * 2, "line 2: a line is an id of its own"),
        (b64encode(b"x" * 32).decode(), "line 1: a line is an id"),
    ],
)
def test_a_key_file_that_is_none_is_refused_without_showing_it(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        parse_keys(text)
    assert "eHh4" not in str(refused.value)


def test_keys_do_not_show_themselves() -> None:
    key = os.urandom(32)
    assert repr(KeyRing({"k1": key})) == "KeyRing(k1)"
