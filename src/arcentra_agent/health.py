"""The health page: whether the agent is in contact with the server, for who watches over its host."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from arcentra_agent.config import HostPort
from arcentra_agent.contact import Contact
from arcentra_agent.logs.spool import bytes_in
from arcentra_agent.step_host.lease import Lease
from arcentra_agent.steps import StepBoard

_LONGEST_REQUEST = 8 * 1024
# Seconds that a client gets for its request.
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Health:
    """What is told of an agent. It is well while it is in contact; waiting for an operator is no illness."""

    board: StepBoard
    contact: Contact
    lease: Lease
    logs: Path

    @property
    def is_well(self) -> bool:
        """Tell whether the server has said something within the length of a lease."""
        ago = self.contact.seconds_ago
        is_there = self.contact.is_connected or bool(self.contact.waits_for)
        return is_there and ago is not None and ago < self.lease.duration

    async def status(self) -> dict[str, object]:
        """Return what `GET /status` answers."""
        return {
            "healthy": self.is_well,
            "connected": self.contact.is_connected,
            "waits_for": self.contact.waits_for,
            "draining": self.board.is_draining,
            "running_step_runs": len(self.board),
            "spool_bytes": await asyncio.to_thread(bytes_in, self.logs),
            "last_contact_seconds": None if (ago := self.contact.seconds_ago) is None else round(ago, 1),
        }


@asynccontextmanager
async def health_page(health: Health, listen: HostPort | None) -> AsyncIterator[int]:
    """Serve `/healthz` and `/status` for the length of the block, on the port that is given; 0 without an address.

    Raises:
        OSError: when the address cannot be listened on.
    """
    if listen is None:
        yield 0
        return
    page = _Page(health)
    try:
        server = await asyncio.start_server(page.serve, listen.host, listen.port, limit=_LONGEST_REQUEST)
    except OSError as error:
        raise OSError(
            error.errno, f"--health-listen {listen.host}:{listen.port}: {os.strerror(error.errno or 0)}"
        ) from error
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


class _Page:
    """Answers one request a connection."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whoever hangs up, sends too much or takes too long gets no answer, and nothing else happens.
        with contextlib.suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
                writer.write(await self._answer(method, path))
                await writer.drain()
        writer.close()

    async def _answer(self, method: str, path: str) -> bytes:
        content: dict[str, object]
        match path.partition("?")[0]:
            case _ if method not in {"GET", "HEAD"}:
                status, content = HTTPStatus.METHOD_NOT_ALLOWED, {"error": "only GET is served"}
            case "/healthz":
                well = self._health.is_well
                status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
                content = {"healthy": well}
            case "/status":
                status, content = HTTPStatus.OK, await self._health.status()
            case _:
                status, content = HTTPStatus.NOT_FOUND, {"error": "there are /healthz and /status"}
        body = json.dumps(content).encode() + b"\n"
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + (b"" if method == "HEAD" else body)
