"""Who calls while the database does not answer: nobody waits for it without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from grpc import aio

from arcentra_server.db import engine
from arcentra_server.db.embedded import EmbeddedPostgres
from arcentra_server.domain.errors import Unavailable
from arcentra_server.domain.identity import Role, TokenKind
from arcentra_server.rpc.interceptors import guard
from arcentra_server.services import agents
from tests.support.freezer import Freezer
from tests.support.world import World

UNARY = "/agent.v1.AgentService/Heartbeat"
POLL = "/agent.v1.AgentService/FetchStepRun"
UP = "/gateway.v1.GatewayService/PushLogs"
DOWN = "/stream.v1.StreamService/StreamEvents"
BOTH = "/agent.v1.AgentService/Connect"
SILENT = "the database does not answer: try again"
GIVEN_UP = "the server gave this call up: it took too long"


@pytest.fixture
async def world(dsn: str) -> AsyncIterator[World]:
    async with World(dsn) as world:
        yield world


class Methods(grpc.GenericRpcHandler):
    """Methods of each kind, for bytes; each does what `behaviour` does."""

    def __init__(self, behaviour: Callable[..., Awaitable[bytes]]) -> None:
        self.behaviour = behaviour

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        make: dict[str, Any] = {
            UP: grpc.stream_unary_rpc_method_handler,
            DOWN: grpc.unary_stream_rpc_method_handler,
            BOTH: grpc.stream_stream_rpc_method_handler,
        }
        return make.get(handler_call_details.method, grpc.unary_unary_rpc_method_handler)(self.behaviour)


@asynccontextmanager
async def guarded(world: World, behaviour: Callable[..., Awaitable[bytes]]) -> AsyncIterator[Any]:
    """A channel to a server of these methods, which ends before it."""
    server = aio.server(
        interceptors=[guard.Guard(world.server.auth, lambda *_: None)], options=[("grpc.so_reuseport", 0)]
    )
    server.add_generic_rpc_handlers((Methods(behaviour),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


async def nobody(*_: object) -> bytes:
    pytest.fail("a caller was let in of whom nothing is known")


async def poll(*_: object) -> bytes:
    """Find nothing until all other calls would have been given up."""
    with suppress(TimeoutError):
        async with asyncio.timeout(2 * guard.UNARY_SECONDS):
            await asyncio.Event().wait()
    return b"nothing"


@pytest.mark.parametrize(
    ("method", "kind", "code", "message"),
    [
        (UNARY, "unary_unary", grpc.StatusCode.DEADLINE_EXCEEDED, GIVEN_UP),
        (POLL, "unary_unary", grpc.StatusCode.DEADLINE_EXCEEDED, GIVEN_UP),
        (UP, "stream_unary", grpc.StatusCode.UNAVAILABLE, SILENT),
        (DOWN, "unary_stream", grpc.StatusCode.UNAVAILABLE, SILENT),
        (BOTH, "stream_stream", grpc.StatusCode.UNAVAILABLE, SILENT),
    ],
)
async def test_call_ends_though_it_cannot_be_known_who_calls(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str, kind: str, code: grpc.StatusCode, message: str
) -> None:
    monkeypatch.setattr(guard, "UNARY_SECONDS", 0.2)
    token = await world.server.auth.issue(TokenKind.USER, "anna", Role.VIEWER)
    async with guarded(world, nobody) as channel, world.database.transaction() as tx:
        await tx.execute("LOCK TABLE tokens IN ACCESS EXCLUSIVE MODE")
        metadata = (("authorization", f"Bearer {token}"),)
        request: Any = () if kind.startswith("stream") else b""
        call = getattr(channel, kind)(method)(request, metadata=metadata)
        assert (await call.code(), await call.details()) == (code, message)


async def test_only_a_long_poll_goes_on_for_longer_than_other_calls(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "UNARY_SECONDS", 0.2)
    registration = await world.server.auth.issue(TokenKind.REGISTRATION, "one", Role.AGENT)
    joined = await world.server.agents.register(registration, agents.AgentFacts("worker"))
    metadata = (("authorization", f"Bearer {joined.token}"),)
    async with guarded(world, poll) as channel:
        assert await channel.unary_unary(POLL)(b"", metadata=metadata) == b"nothing"
        call = channel.unary_unary(UNARY)(b"", metadata=metadata)
        assert (await call.code(), await call.details()) == (grpc.StatusCode.DEADLINE_EXCEEDED, GIVEN_UP)


async def test_call_that_was_let_in_ends_with_its_deadline_while_the_database_hangs(
    world: World, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(guard, "UNARY_SECONDS", 2.0)
    registration = await world.server.auth.issue(TokenKind.REGISTRATION, "one", Role.AGENT)
    joined = await world.server.agents.register(registration, agents.AgentFacts("worker"))
    metadata = (("authorization", f"Bearer {joined.token}"),)
    freezer = Freezer(postgres.pid)

    async def count(request: bytes, _: object) -> bytes:
        async with world.database.transaction() as tx:
            if request == b"freeze":
                freezer.freeze()
            return str(await tx.fetchval("SELECT count(*) FROM agents")).encode()

    async with guarded(world, count) as channel:
        unary = channel.unary_unary(UNARY)
        assert await unary(b"", metadata=metadata) == b"1"
        with freezer:
            call = unary(b"freeze", metadata=metadata)
            assert (await call.code(), await call.details()) == (grpc.StatusCode.DEADLINE_EXCEEDED, GIVEN_UP)
            assert freezer.frozen.is_set(), "the call waited for the database"
        assert await unary(b"", metadata=metadata) == b"1"


async def test_agent_is_told_that_the_database_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "ADMISSION_SECONDS", 0.2)
    agent_id = await world.agent("x")
    async with world.database.transaction() as tx:
        await tx.execute("LOCK TABLE agents IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Unavailable, match=f"^{SILENT}$"):
            await world.server.agents.admit(agent_id, "any")
