"""Whether a delivery comes from who knows the secret of the hook (security.md, S29)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from arcentra_server.domain.forge import Forge

# How each sender signs: the header, and what stands before the hexadecimal MAC. GitHub's older header is of SHA-1 and
# does not count.
_SIGNED = {
    Forge.GITHUB: ("x-hub-signature-256", "sha256="),
    Forge.GITEA: ("x-gitea-signature", ""),
    Forge.GENERIC: ("x-arcentra-signature", "sha256="),
}
_TOKEN_HEADER = "x-gitlab-token"  # noqa: S105 - the name of a header


def is_signed(forge: Forge, secrets: Iterable[str], headers: Mapping[str, str], body: bytes) -> bool:
    """Answer whether one of the secrets signed the body, as it was sent, byte for byte.

    Args:
        forge: Who sends. GitLab does not sign: it sends the secret itself.
        secrets: The secrets of the hook, two while one is being replaced.
        headers: The headers, names in small letters.
        body: The body, before anything is read from it.
    """
    if forge is Forge.GITLAB:
        token = headers.get(_TOKEN_HEADER, "").encode("utf-8", "replace")
        return _any(hmac.compare_digest(token, secret.encode()) for secret in secrets)
    header, prefix = _SIGNED[forge]
    given = headers.get(header, "").encode("utf-8", "replace")
    return _any(hmac.compare_digest(given, (prefix + sign(secret, body)).encode()) for secret in secrets)


def sign(secret: str, body: bytes) -> str:
    """Return the MAC of a body, in hexadecimal."""
    return hmac.digest(secret.encode(), body, hashlib.sha256).hex()


def _any(answers: Iterable[bool]) -> bool:
    """Answer whether one is true, after all were asked for: how long it takes tells nothing of which."""
    return any(list(answers))
