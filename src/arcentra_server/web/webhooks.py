"""`POST /webhooks/<hook id>`: where code hosts deliver events. The signature is the credential."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from uuid import UUID

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from arcentra_server.domain.errors import (
    ArcentraError,
    GivenUp,
    LimitExceeded,
    NoRoom,
    NotFound,
    SecretUnreadable,
    Unauthenticated,
    Unavailable,
    ValidationError,
    WriteConflict,
)
from arcentra_server.domain.forge import clean_line
from arcentra_server.domain.hooks import PATH
from arcentra_server.domain.ids import parse_id
from arcentra_server.services.webhooks import Answer, WebhookService

LARGEST_BODY = 5 * 1024 * 1024
BODY_SECONDS = 20.0
_STATUS: Mapping[type[ArcentraError], int] = {
    ValidationError: 400,
    Unauthenticated: 401,
    NotFound: 404,
    LimitExceeded: 413,
    SecretUnreadable: 503,
    Unavailable: 503,
    GivenUp: 503,
    NoRoom: 503,
    WriteConflict: 503,
}
_AGAIN_SECONDS = "10"
_log = structlog.get_logger()


def routes(webhooks: WebhookService, *, body_seconds: float = BODY_SECONDS) -> list[Route]:
    """Return the routes of deliveries, whose bodies have so long to come."""

    async def deliver(request: Request) -> Response:
        try:
            hook = await webhooks.find(_hook_id(request))
            # Who does not know the address of a hook does not get a body read.
            body = await _body(request, body_seconds)
            return _answered(await webhooks.deliver(hook, _headers(request), body))
        except ArcentraError as error:
            return _refused(error)
        except ClientDisconnect:
            return _plain(400, "the body was cut off")
        except TimeoutError:
            return _plain(408, f"the body did not come within {body_seconds:g} s")
        except Exception:  # noqa: BLE001 - whatever it is, its text is not for whoever sent this
            error_id = secrets.token_hex(8)
            _log.exception("webhook_failed", error_id=error_id)
            return _plain(500, f"internal error (request {error_id})")

    return [Route(PATH + "{hook_id}", deliver, methods=["POST"])]


def _hook_id(request: Request) -> UUID:
    hook_id = parse_id(request.path_params["hook_id"])
    if hook_id is None:
        raise NotFound("no such hook")
    return hook_id


async def _body(request: Request, seconds: float) -> bytes:
    """Return the body.

    Raises:
        LimitExceeded: it is larger than 5 MiB.
        TimeoutError: it does not come.
    """
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > LARGEST_BODY:
        raise LimitExceeded("the body is larger than 5 MiB")
    body = bytearray()
    async with asyncio.timeout(seconds):
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_BODY:
                raise LimitExceeded("the body is larger than 5 MiB")
    return bytes(body)


def _headers(request: Request) -> dict[str, str]:
    """Return the headers by name. One that came twice is joined, so that no signature in it is a good one."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _answered(answer: Answer) -> Response:
    first = {"first": answer.first.lower()} if answer.first else {}
    reason = {"reason": answer.reason} if answer.reason else {}
    return JSONResponse({"outcome": answer.outcome.lower(), **first, **reason, "runs": _texts(answer.runs)})


def _refused(error: ArcentraError) -> Response:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    return _plain(status, str(error))


def _plain(status: int, reason: str) -> Response:
    headers = {"retry-after": _AGAIN_SECONDS} if status == 503 else None
    return JSONResponse({"outcome": "refused", "reason": clean_line(reason), "runs": []}, status, headers)


def _texts(runs: Sequence[UUID]) -> list[str]:
    return [str(run) for run in runs]
