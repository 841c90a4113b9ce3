"""The caller of the call that runs: set once by the interceptor, read by servicers."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any
from uuid import UUID

from grpc import aio

from arcentra_server.domain.errors import Forbidden, NotFound
from arcentra_server.domain.identity import Caller
from arcentra_server.domain.ids import parse_id

Context = aio.ServicerContext[Any, Any]
"""How servicers annotate their context: the stubs' own type is invariant in its parameters."""

CALLER: ContextVar[Caller] = ContextVar("caller")
ARRIVED: ContextVar[float] = ContextVar("arrived")
"""When a stream came, before it was known whose, in the time of the event loop."""


def caller() -> Caller:
    """Return who makes the call that runs."""
    return CALLER.get()


def calling_agent(claimed_id: str) -> UUID:
    """Return the id of the calling agent.

    Raises:
        Forbidden: the message names another agent than the credential.
    """
    agent_id = CALLER.get().agent_id
    if agent_id is None or (claimed_id and parse_id(claimed_id) != agent_id):
        raise Forbidden("an agent acts for itself only: agent_id is not that of the credential")
    return agent_id


def address_of(context: Context) -> str:
    """Return the address of the caller without its port: `ipv4:127.0.0.1:4711` is `ipv4:127.0.0.1`."""
    peer = context.peer()
    return peer.rpartition(":")[0] or peer


def existing_id(text: str, what: str) -> UUID:
    """Return the id that a caller wrote.

    Raises:
        NotFound: the text is not an id, which no row can have.
    """
    identity = parse_id(text)
    if identity is None:
        raise NotFound(f"{what} {text[:64]!r} not found")
    return identity
