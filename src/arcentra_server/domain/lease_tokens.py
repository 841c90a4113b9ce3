"""The secret of a lease: derived from its id, so that it can be sent again and need not be stored."""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from functools import lru_cache
from uuid import UUID

MOST_KEPT = 20_000
"""Tokens that are remembered: one is made when its step run is sent, and checked with each of its reports."""


class LeaseTokens:
    """Makes and checks lease tokens with the key of the installation."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._kept = lru_cache(MOST_KEPT)(self._make)

    def token(self, lease_id: UUID) -> str:
        """Return the token of a lease, 43 characters that carry 256 bits."""
        return self._kept(lease_id)

    def is_token(self, lease_id: UUID, text: str) -> bool:
        """Answer whether a text is the token of a lease, in constant time."""
        return hmac.compare_digest(self.token(lease_id).encode(), text.encode())

    def _make(self, lease_id: UUID) -> str:
        digest = hmac.digest(self._key, lease_id.bytes, hashlib.sha256)
        return urlsafe_b64encode(digest).rstrip(b"=").decode()
