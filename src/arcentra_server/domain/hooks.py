"""Hooks: their addresses, what is a fault of a secret, and what one is sealed with."""

from __future__ import annotations

from uuid import UUID

from arcentra_server.domain.errors import Fault

SHORTEST = 16
LONGEST = 256
MADE_PREFIX = "arc_hook_"
PATH = "/webhooks/"


def hook_path(hook_id: UUID) -> str:
    """Return the path of a hook at the server's HTTP address."""
    return f"{PATH}{hook_id}"


def bound_to(hook_id: UUID, version: int) -> tuple[str, ...]:
    """Return what a version of a secret is sealed with: see `domain/secret_box.py`."""
    return ("hook", str(hook_id), str(version))


def check_hook_secret(secret: str) -> list[Fault]:
    """Return the fault of a secret. One that travels in a header has no character that headers do not have."""
    if not SHORTEST <= len(secret) <= LONGEST:
        return [Fault("secret", f"is {SHORTEST} to {LONGEST} characters; left empty, one is made")]
    if not secret.isascii() or not secret.isprintable() or secret != secret.strip():
        return [Fault("secret", "is printable ASCII, without a space at its ends")]
    return []
