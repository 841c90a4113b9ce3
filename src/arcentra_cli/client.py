"""The connection to a server: one channel, the token on every call, reads repeated over short outages."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc import aio

from arcentra_api.admin.v1 import admin_pb2_grpc
from arcentra_api.agent.v1 import agent_pb2_grpc
from arcentra_api.pipeline.v1 import pipeline_pb2_grpc
from arcentra_api.steprun.v1 import steprun_pb2_grpc
from arcentra_api.stream.v1 import stream_pb2_grpc
from arcentra_cli.config import Endpoint
from arcentra_cli.errors import CliError
from arcentra_cli.rpc_errors import explain

Req = TypeVar("Req")
Resp = TypeVar("Resp")

CALL_TIMEOUT_S = 30.0
# Waits before a repeated call: short, because a person or a script stands behind it.
RETRY_WAITS_S = (0.2, 0.4, 0.8)
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A server cut off without a word is noticed. Servers forbid pings closer than 5 minutes unless told otherwise.
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


class Client:
    """The services of one server. Every call carries the token and, unless it streams, a deadline."""

    def __init__(self, channel: aio.Channel, token: str) -> None:
        self.channel = channel
        self.admin = admin_pb2_grpc.AdminServiceStub(channel)
        self.agents = agent_pb2_grpc.AgentServiceStub(channel)
        self.pipelines = pipeline_pb2_grpc.PipelineServiceStub(channel)
        self.step_runs = steprun_pb2_grpc.StepRunServiceStub(channel)
        self.streams = stream_pb2_grpc.StreamServiceStub(channel)
        self._metadata = aio.Metadata(("authorization", f"Bearer {token}"))

    async def write(self, method: aio.UnaryUnaryMultiCallable[Req, Resp], request: Req) -> Resp:
        """Make a call that changes something, once.

        Raises:
            grpc.aio.AioRpcError: the call failed.
        """
        return await method(request, metadata=self._metadata, timeout=CALL_TIMEOUT_S)

    async def read(self, method: aio.UnaryUnaryMultiCallable[Req, Resp], request: Req) -> Resp:
        """Make a call that may be repeated without harm; it is, while the server cannot be reached.

        Raises:
            grpc.aio.AioRpcError: the call failed, or the server stayed away.
        """
        for wait in RETRY_WAITS_S:
            try:
                return await self.write(method, request)
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(wait)
        return await self.write(method, request)

    def stream(self, method: aio.UnaryStreamMultiCallable[Req, Resp], request: Req) -> aio.UnaryStreamCall[Req, Resp]:
        """Open a server stream; it has no deadline."""
        return method(request, metadata=self._metadata)


@asynccontextmanager
async def connect(endpoint: Endpoint) -> AsyncIterator[Client]:
    """A client of `endpoint`; the channel is closed at the end.

    Raises:
        CliError: there is no token, or any call made with the client failed.
    """
    token = endpoint.require_token()
    try:
        async with open_channel(endpoint) as channel:
            yield Client(channel, token)
    except (aio.AioRpcError, BaseExceptionGroup) as error:
        cause = first_leaf(error)
        if isinstance(cause, aio.AioRpcError):
            raise explain(cause, endpoint) from error
        raise cause from None


def open_channel(endpoint: Endpoint) -> aio.Channel:
    """Open a channel, over TLS where the endpoint says so.

    Raises:
        CliError: the file with the roots cannot be read.
    """
    if endpoint.address.tls:
        roots = _read_roots(endpoint.ca_file) if endpoint.ca_file else None
        return aio.secure_channel(str(endpoint.address), grpc.ssl_channel_credentials(roots), options=_OPTIONS)
    # A proxy of the environment is for the network, not for this host.
    proxy = [("grpc.enable_http_proxy", 0)] if endpoint.address.is_loopback else []
    return aio.insecure_channel(str(endpoint.address), options=[*_OPTIONS, *proxy])


def _read_roots(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}") from error


def first_leaf(error: BaseException) -> BaseException:
    """The first error inside nested groups; of several calls that failed together one is told, the others follow it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
