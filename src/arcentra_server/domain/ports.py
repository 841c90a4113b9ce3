"""What services need of the transport: a way to reach the agents that are connected to this process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from arcentra_server.domain.execution import CancelCommand, Dispatch, Release
from arcentra_server.domain.expressions import Rendered
from arcentra_server.domain.instantiate import NewStep

Wake = Callable[[], None]
"""A hint that there is something to look at. A lost one costs latency, never correctness."""


class DispatchForm(Protocol):
    """The stored wire form of a step run, which is opaque to everything but the transport."""

    def encode(self, step: NewStep) -> bytes:
        """Build it."""
        ...

    def env(self, dispatch: bytes) -> Mapping[str, str]:
        """Return its environment variables."""
        ...

    def args(self, dispatch: bytes) -> Mapping[str, object]:
        """Return the arguments of its plugin."""
        ...

    def render(self, dispatch: bytes, rendered: Rendered) -> bytes:
        """Return it with what was evaluated when its turn came."""
        ...

    def edit(self, dispatch: bytes, env: Mapping[str, str], timeout_ms: int | None) -> bytes:
        """Return it with other environment variables and, if not None, another timeout in milliseconds."""
        ...

    def size(self, dispatch: Dispatch) -> int:
        """Return how many bytes a step run has when it is sent, with its lease and its secrets."""
        ...


class AgentLinks(Protocol):
    """The agents that hold a channel to this process. Nothing here is a source of truth: leases are rows."""

    def connected(self) -> Collection[UUID]:
        """Return the agents that take dispatches."""
        ...

    def dispatch(self, dispatches: Sequence[Dispatch]) -> None:
        """Send leased step runs to those of their agents that are connected here."""
        ...

    def reachable(self) -> Collection[UUID]:
        """Return the agents that hold any channel to this process, also those that pull."""
        ...

    def unsent(self, leases: Mapping[UUID, UUID]) -> set[UUID]:
        """Return those of the open leases, by id with their agents, that should go out from here and have not."""
        ...

    def cancel(self, commands: Sequence[CancelCommand]) -> None:
        """Ask agents that are connected here to end step runs."""
        ...

    def release(self, releases: Sequence[Release]) -> None:
        """Tell agents that are connected here which workspaces they may remove."""
        ...
