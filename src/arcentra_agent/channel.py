"""The way to the server: one channel for everything, and how to wait before trying again."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from grpc import aio

from arcentra_agent.config import AgentConfig

REFUSED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
_DISPATCH_BYTES = 16 * 1024 * 1024


def open_channel(config: AgentConfig) -> aio.Channel:
    """Return a channel that notices a dead peer within 30 s (keepalive) and tries again within 2 s of a failure."""
    options: list[tuple[str, int]] = [
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.max_receive_message_length", _DISPATCH_BYTES),
        # A proxy for the outside world is in the way of a server on this host.
        ("grpc.enable_http_proxy", 0 if config.server_is_local else 1),
    ]
    return aio.insecure_channel(config.server, options=options)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Return the call metadata that names the caller."""
    return (("authorization", f"Bearer {token}"),)


@dataclass(slots=True)
class Backoff:
    """Seconds to wait before the next attempt: exponential with full jitter, so that many agents do not come at once."""

    first: float = 0.1
    longest: float = 15.0
    uniform: Callable[[float, float], float] = random.SystemRandom().uniform
    _attempts: int = 0

    def reset(self) -> None:
        self._attempts = 0

    def next(self) -> float:
        ceiling = min(self.longest, self.first * 2.0**self._attempts)
        self._attempts = min(self._attempts + 1, 16)
        return self.uniform(self.first / 2, ceiling)
