"""Secrets at rest: AES-256-GCM in an envelope, each value bound to what it is the value of.

Each version of a value has a data key of its own, which encrypts it. The data key is stored beside it, wrapped by a key
of the installation that goes by its id. Both ciphertexts carry the name of what they belong to as associated data, so
that one which was moved to another row, swapped or renamed does not open.

Several keys of the installation may be known at once. To bring a value under a new one, its data key is unwrapped and
wrapped again; the value is not touched, and need not be read.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from arcentra_server.domain.errors import SecretUnreadable

ALGORITHM = "AES-256-GCM"
KEY_BYTES = 32
KEY_UNAVAILABLE = "secret key unavailable"
DAMAGED = "the stored secret is damaged: set it again"
_NONCE_BYTES = 12
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Whatever is encrypted under one of our keys says what kind of thing it is.
_VALUE = "value"
_DATA_KEY = "data key"

RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key under the key of the installation with this id: nonce, ciphertext, tag."""

    key_id: str
    blob: bytes


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value as it is stored. `blob`: nonce, ciphertext, tag."""

    algorithm: str
    key: WrappedKey
    blob: bytes


class KeyRing:
    """The keys of an installation. The first is for what is sealed from now on, the others open what there is.

    What a value is bound to (`bound_to`) is a sequence of texts that name it, the kind of thing first.

    Args:
        keys: By id, at least one; 32 random bytes each.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._newest = next(iter(self._keys))

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._keys)})"

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the keys, that of the newest first."""
        return tuple(self._keys)

    def seal(self, value: bytes, bound_to: Sequence[str], random_bytes: RandomBytes) -> Sealed:
        """Encrypt a value under a data key of its own."""
        data_key = random_bytes(KEY_BYTES)
        blob = _encrypt(AESGCM(data_key), value, _associated(_VALUE, ALGORITHM, *bound_to), random_bytes)
        return Sealed(ALGORITHM, self.wrap(data_key, bound_to, random_bytes), blob)

    def wrap(self, data_key: bytes, bound_to: Sequence[str], random_bytes: RandomBytes) -> WrappedKey:
        """Encrypt a data key under the newest key."""
        associated = _associated(_DATA_KEY, ALGORITHM, self._newest, *bound_to)
        return WrappedKey(self._newest, _encrypt(self._keys[self._newest], data_key, associated, random_bytes))

    def unwrap(self, key: WrappedKey, bound_to: Sequence[str]) -> bytes:
        """Return a data key.

        Raises:
            SecretUnreadable: the key that wraps it is not known, or is another than it was.
        """
        wrapping = self._keys.get(key.key_id)
        if wrapping is None:
            raise SecretUnreadable(KEY_UNAVAILABLE)
        try:
            return _decrypt(wrapping, key.blob, _associated(_DATA_KEY, ALGORITHM, key.key_id, *bound_to))
        except InvalidTag:
            raise SecretUnreadable(KEY_UNAVAILABLE) from None


def open_sealed(sealed: Sealed, bound_to: Sequence[str], data_key: bytes) -> bytes:
    """Return a value.

    Raises:
        SecretUnreadable: it is not what was sealed for this, with this data key.
    """
    try:
        return _decrypt(AESGCM(data_key), sealed.blob, _associated(_VALUE, sealed.algorithm, *bound_to))
    except InvalidTag:
        raise SecretUnreadable(DAMAGED) from None


def _encrypt(key: AESGCM, plain: bytes, associated: bytes, random_bytes: RandomBytes) -> bytes:
    nonce = random_bytes(_NONCE_BYTES)
    return nonce + key.encrypt(nonce, plain, associated)


def _decrypt(key: AESGCM, blob: bytes, associated: bytes) -> bytes:
    if len(blob) < _NONCE_BYTES:
        raise InvalidTag
    return key.decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], associated)


def _associated(*fields: str) -> bytes:
    """Return fields so that no two lists of fields give the same bytes: each behind its length."""
    encoded = [field.encode() for field in fields]
    return b"".join(len(field).to_bytes(4, "big") + field for field in encoded)


def parse_keys(text: str) -> dict[str, bytes]:
    """Read a key file: lines of `<id> <base64 of 32 bytes>`, the newest first; empty lines and `#` lines do not count.

    Raises:
        ValueError: a line is not that, an id comes twice, or there is no key. The text names the line, and shows
            nothing of it.
    """
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key_id, _, encoded = line.strip().partition(" ")
        if not _KEY_ID.fullmatch(key_id) or key_id in keys:
            raise ValueError(f"line {number}: a line is an id of its own (A-Z a-z 0-9 . _ -), a space, and a key")
        keys[key_id] = _parse_key(encoded.strip(), number)
    if not keys:
        raise ValueError("it holds no key")
    return keys


def _parse_key(encoded: str, number: int) -> bytes:
    try:
        key = b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"line {number}: the key is not {KEY_BYTES} bytes in base64")
    return key


def make_key_line(random_bytes: RandomBytes) -> str:
    """Return the line of a new key, with a line break."""
    return f"k-{random_bytes(4).hex()} {b64encode(random_bytes(KEY_BYTES)).decode()}\n"
