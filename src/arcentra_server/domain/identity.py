"""Who calls: roles, kinds of token, and the caller of a request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class Role(StrEnum):
    """What a caller may do; `rpc/policy.py` says which methods each may call."""

    VIEWER = "viewer"
    TRIGGER = "trigger"
    APPROVER = "approver"
    MAINTAINER = "maintainer"
    AGENT_ADMIN = "agent-admin"
    AUDITOR = "auditor"
    ADMIN = "admin"
    AGENT = "agent"


USER_ROLES = tuple(role for role in Role if role is not Role.AGENT)


class TokenKind(StrEnum):
    """What a token is for; its text starts with the prefix of its kind."""

    USER = "user"
    REGISTRATION = "registration"
    AGENT = "agent"


PREFIXES = {TokenKind.USER: "arc_pat", TokenKind.REGISTRATION: "arc_reg", TokenKind.AGENT: "arc_agt"}


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request, as its credential proves. `agent_id` is set for agents and for nobody else.

    `pending`: an agent that waits for approval.
    """

    token_id: str
    name: str
    role: Role
    agent_id: UUID | None = None
    pending: bool = False


@dataclass(frozen=True, slots=True)
class ParsedToken:
    """The parts of a token's text."""

    kind: TokenKind
    id: str
    secret: str


def parse_token(text: str) -> ParsedToken | None:
    """Take a token apart, None when the text is not one: `<prefix>_<id>_<secret>`."""
    for kind, prefix in PREFIXES.items():
        if text.startswith(prefix + "_"):
            identity, _, secret = text[len(prefix) + 1 :].partition("_")
            return ParsedToken(kind, identity, secret) if identity.isalnum() and secret else None
    return None


def format_token(kind: TokenKind, identity: str, secret: str) -> str:
    """Return the text of a token."""
    return f"{PREFIXES[kind]}_{identity}_{secret}"
