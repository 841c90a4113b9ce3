"""A TCP proxy that a test can make slow, silent or dead, each direction by itself.

What is silent holds the bytes, as a network does whose ends send again: they arrive when it heals, or never. New
connections are taken meanwhile, and are as silent.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

_CHUNK = 16 * 1024
_LINGER_NOT = struct.pack("ii", 1, 0)


@dataclass
class Way:
    """One direction. `delay`: seconds that each piece takes; `bandwidth`: bytes a second, 0 for no limit."""

    delay: float = 0.0
    bandwidth: int = 0
    passed: int = 0
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._open.set()

    def hold(self) -> None:
        """Let nothing through until `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes until the source ends."""
        while data := await reader.read(_CHUNK):
            if pause := self.delay + (len(data) / self.bandwidth if self.bandwidth else 0.0):
                await asyncio.sleep(pause)
            await self._open.wait()
            writer.write(data)
            await writer.drain()
            self.passed += len(data)
        await self._open.wait()
        if writer.can_write_eof():
            writer.write_eof()


@dataclass
class TcpProxy:
    """See the module. `up` is from the clients to the target, `down` back. `address` is HOST:PORT to connect to."""

    target: str
    address: str = ""
    up: Way = field(default_factory=Way)
    down: Way = field(default_factory=Way)
    accepted: int = 0
    _dead: bool = False
    _pairs: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = field(default_factory=dict)

    def hold(self) -> None:
        """Cut the clients off without a word, both ways, until `heal`."""
        self.up.hold()
        self.down.hold()

    def cut(self, *, reset: bool = False) -> None:
        """End all connections, in order or by a reset, and refuse new ones until `heal`."""
        self._dead = True
        self.end_connections(reset=reset)

    def heal(self) -> None:
        self._dead = False
        self.up.release()
        self.down.release()

    def end_connections(self, *, reset: bool = False) -> None:
        """End all connections; new ones are taken."""
        for task, writers in list(self._pairs.items()):
            for writer in writers:
                sock = writer.get_extra_info("socket")
                if reset and sock is not None:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                writer.close()
            task.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._pairs[task] = (writer,)
        try:
            if self._dead:
                return
            self.accepted += 1
            host, _, port = self.target.rpartition(":")
            with suppress(OSError, ExceptionGroup):
                far_reader, far_writer = await asyncio.open_connection(host, int(port))
                self._pairs[task] = (writer, far_writer)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.up.carry(reader, far_writer))
                    group.create_task(self.down.carry(far_reader, writer))
        except asyncio.CancelledError:
            return  # `end_connections`
        finally:
            for one in self._pairs.pop(task):
                one.close()


@asynccontextmanager
async def tcp_proxy(target: str) -> AsyncIterator[TcpProxy]:
    """Run a proxy before HOST:PORT for the length of the block."""
    proxy = TcpProxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        tasks = list(proxy._pairs)
        proxy.end_connections()
        if tasks:
            await asyncio.wait(tasks)
        await server.wait_closed()
