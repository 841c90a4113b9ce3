"""The proxy carries bytes, holds them each way by itself, and ends connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.support.tcp_proxy import TcpProxy, tcp_proxy


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(100):
            writer.write(data.upper())
            await writer.drain()
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[TcpProxy]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with tcp_proxy(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as proxy:
        yield proxy
    server.close()
    await server.wait_closed()


async def connect(proxy: TcpProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = proxy.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def test_bytes_go_both_ways(proxy: TcpProxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"HELLO"
    assert (proxy.accepted, proxy.up.passed, proxy.down.passed) == (1, 5, 5)
    writer.close()


@pytest.mark.parametrize(("way", "passed"), [("up", (0, 0)), ("down", (5, 0))])
async def test_one_way_is_held_and_goes_on(proxy: TcpProxy, way: str, passed: tuple[int, int]) -> None:
    reader, writer = await connect(proxy)
    getattr(proxy, way).hold()
    writer.write(b"hello")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)
    assert (proxy.up.passed, proxy.down.passed) == passed
    proxy.heal()
    assert await reader.readexactly(5) == b"HELLO"
    writer.close()


async def test_cut_connections_end_and_new_ones_too(proxy: TcpProxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"A"
    proxy.cut()
    assert await reader.read() == b""
    again, other = await connect(proxy)
    assert await again.read() == b""
    proxy.heal()
    last, third = await connect(proxy)
    third.write(b"b")
    assert await last.readexactly(1) == b"B"
    for one in (writer, other, third):
        one.close()


async def test_reset_connections_end_with_an_error(proxy: TcpProxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"A"
    proxy.end_connections(reset=True)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
