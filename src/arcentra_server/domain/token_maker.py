"""Token material: 256 random bits, of which a keyed hash is stored."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass

from arcentra_server.domain.identity import TokenKind, format_token


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A new token. `text` is shown to its owner once; `secret_hash` is what is stored."""

    text: str
    id: str
    secret_hash: bytes


class TokenMaker:
    """Makes tokens and hashes their secrets with the key of the installation.

    Random bits need no slow hash, only one that a dump of the database does not reverse.

    Args:
        pepper: Secret key of the installation.
        random_bytes: Source of randomness.
    """

    def __init__(self, pepper: bytes, random_bytes: Callable[[int], bytes]) -> None:
        self._pepper = pepper
        self._random_bytes = random_bytes

    def make(self, kind: TokenKind) -> MadeToken:
        """Return a new token: `<prefix>_<id>_<43 characters>`."""
        identity = b32encode(self._random_bytes(10)).decode().lower()
        secret = urlsafe_b64encode(self._random_bytes(32)).rstrip(b"=").decode()
        return MadeToken(format_token(kind, identity, secret), identity, self.hash(secret))

    def hash(self, secret: str) -> bytes:
        """Return what is stored of a token's secret."""
        return hmac.digest(self._pepper, secret.encode(), hashlib.sha256)

    def matches(self, secret: str, stored: bytes) -> bool:
        """Answer whether a secret is the one that was stored, in constant time."""
        return hmac.compare_digest(self.hash(secret), stored)
