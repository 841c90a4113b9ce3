"""The HTTP server: health, readiness, metrics, and what other modules beside it serve."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

Check = Callable[[], Awaitable[dict[str, str]]]
"""Answers what is wrong, by part; nothing when all is well."""


def make_app(ready: Check, registry: CollectorRegistry, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """Build the application.

    Args:
        ready: Whether the server can do its work now.
        registry: The metrics.
        routes: What else it serves.
    """

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        faults = await ready()
        return JSONResponse({"status": "unavailable" if faults else "ok", **faults}, 503 if faults else 200)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    own = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
    return Starlette(routes=[*own, *routes])


class HttpServer(uvicorn.Server):
    """uvicorn on the loop of the process, whose signals are not its business."""

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=5,
            )
        )
        self._listener: socket.socket | None = None

    def bind(self) -> int:
        """Take the address, on which `serve` answers, and return the port. uvicorn's own way ends the process on failure.

        Raises:
            OSError: the address is taken, or not one of this machine.
        """
        family = socket.AF_INET6 if ":" in self.config.host else socket.AF_INET
        self._listener = socket.create_server((self.config.host, self.config.port), family=family)
        port: int = self._listener.getsockname()[1]
        return port

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await super().serve(sockets or ([self._listener] if self._listener else None))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
