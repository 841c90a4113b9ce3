"""What a call that fails leaves: its status, a traceback in the log, and nothing that needs the garbage collector."""

import asyncio
import gc
import io
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from weakref import WeakSet

import grpc
import pytest
import structlog
from grpc import aio

from arcentra_server import logs
from arcentra_server.domain.errors import NotFound, Unavailable
from arcentra_server.rpc.interceptors.guard import Guard
from tests.support.processes import until
from tests.support.world import World

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
# A path that is called without a credential; what is served there is the test's.
SERVICE, METHOD = "grpc.health.v1.Health", "Check"


class Request:
    """A message that can be seen to be gone."""

    alive: ClassVar[WeakSet["Request"]] = WeakSet()

    def __init__(self, _: bytes) -> None:
        self.alive.add(self)


async def refuse(_: Request) -> None:
    error = NotFound("nothing here")  # in a cycle with this frame
    raise error


async def refuse_because_of_another(request: Request) -> None:
    try:
        await refuse(request)
    except NotFound as error:
        kept = error
        raise Unavailable("later") from kept


async def fail_in_a_group(request: Request) -> None:
    async def deep_inside(_: Request) -> None:
        raise RuntimeError("broken")

    async with asyncio.TaskGroup() as group:
        group.create_task(deep_inside(request))
        await asyncio.Event().wait()


async def take_too_long(_: Request) -> None:
    async with asyncio.timeout(0):
        await asyncio.Event().wait()


def behaviour(kind: str, fail: Callable[[Request], Any]) -> Callable[..., Any]:
    """Return a method that reads one message and then fails."""

    async def call(request: Any, _: Any) -> None:
        if kind.startswith("stream"):
            async for message in request:
                await fail(message)
        else:
            await fail(request)

    return call


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the server writes to its log."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    before = structlog.get_config()
    logs.configure("info", "json")
    yield written
    structlog.configure(**before)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """No garbage is looked for."""
    gc.disable()
    yield
    gc.enable()


async def said_of(channel: aio.Channel, kind: str) -> Any:
    """Start a call of a kind, with one message."""
    call: Any = getattr(channel, kind)(f"/{SERVICE}/{METHOD}")
    if kind.startswith("unary"):
        return call(b"")
    started = call()
    await started.write(b"")
    return started


async def ended(world: World, kind: str, fail: Callable[[Request], Any], *, cancel: bool = False) -> grpc.StatusCode:
    """Make a call that fails; return its status once nothing has its message any more.

    `cancel`: the caller cancels it as soon as the server has its message.
    """
    handler = getattr(grpc, f"{kind}_rpc_method_handler")(behaviour(kind, fail), Request)
    server = aio.server(interceptors=[Guard(world.server.auth, lambda *_: None)])
    server.add_registered_method_handlers(SERVICE, {METHOD: handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = await said_of(channel, kind)
            if cancel:
                await until(lambda: Request.alive)
                call.cancel()
            code: grpc.StatusCode = await call.code()
            await until(lambda: not Request.alive, within=10)
    finally:
        Request.alive.clear()
        await server.stop(None)
    return code


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fail", "code"),
    [
        (refuse, grpc.StatusCode.NOT_FOUND),
        (refuse_because_of_another, grpc.StatusCode.UNAVAILABLE),
        (fail_in_a_group, grpc.StatusCode.INTERNAL),
        (take_too_long, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
@pytest.mark.usefixtures("no_collector")
async def test_a_call_that_fails_keeps_nothing(
    world: World, log: io.StringIO, kind: str, fail: Callable[[Request], Any], code: grpc.StatusCode
) -> None:
    assert await ended(world, kind, fail) is code
    # Only what the caller is not told is for the log, with the place where it happened.
    assert ("deep_inside" in log.getvalue()) is (code is grpc.StatusCode.INTERNAL)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("no_collector")
async def test_a_call_that_is_cancelled_keeps_nothing(world: World, kind: str) -> None:
    async def wait_in_a_group(_: Request) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.Event().wait())

    assert await ended(world, kind, wait_in_a_group, cancel=True) is grpc.StatusCode.CANCELLED
