"""What surrounds every call: who calls, whether they may, what is malformed, and what an error becomes."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, nullcontext
from typing import Any, NamedTuple

import grpc
import structlog
from grpc import aio

from arcentra_server.domain.errors import (
    ArcentraError,
    Forbidden,
    LimitExceeded,
    NotAdmitted,
    Unauthenticated,
    Unavailable,
    ValidationError,
)
from arcentra_server.domain.identity import Caller, Role
from arcentra_server.domain.standing import PENDING_APPROVAL
from arcentra_server.domain.traces import forget_traces
from arcentra_server.rpc.context import ARRIVED, CALLER, Context, address_of
from arcentra_server.rpc.interceptors.errors import to_status
from arcentra_server.rpc.policy import POLICY, PUBLIC, WHILE_PENDING, refusal
from arcentra_server.services.auth import INVALID, AuthService

UNARY_SECONDS = 30.0  # of a unary call, and until it is known who opens a stream (security.md, S22)
# A long poll waits up to a minute by itself; seconds from when it is known who calls.
LONG_CALLS = {"/agent.v1.AgentService/FetchStepRun": 75.0}
# Streams that one credential may hold at the same time (security.md, S19). The command line opens one for each log.
MOST_STREAMS = 50
MOST_AGENT_STREAMS = 6
ANYBODY = Caller("", "", Role.VIEWER)

_log = structlog.get_logger()


class _Malformed:
    """Stands for a request that could not be parsed. grpc would answer it with UNKNOWN and the parser's words."""


class _End(NamedTuple):
    """The status with which a call is aborted."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()


_BEARER = "Bearer "


class Guard(aio.ServerInterceptor):
    """Wraps each method once; the wrapped handler serves all calls of it."""

    def __init__(self, auth: AuthService, observe: Callable[[str, str], None]) -> None:
        self._auth = auth
        self._observe = observe
        self._wrapped: dict[str, Any] = {}
        self._open: Counter[str] = Counter()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the guarded handler of a method; None, which becomes UNIMPLEMENTED, when there is no such method."""
        method = handler_call_details.method
        handler = self._wrapped.get(method)
        if handler is None:
            inner = await continuation(handler_call_details)
            if inner is None or method not in POLICY:
                return None
            handler = self._wrapped[method] = self._wrap(method, inner)
        return handler

    def _wrap(self, method: str, inner: Any) -> Any:
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[inner.request_streaming, inner.response_streaming]
        behaviour = inner.unary_unary or inner.unary_stream or inner.stream_unary or inner.stream_stream
        handle = self._streaming(method, behaviour) if inner.response_streaming else self._answering(method, behaviour)
        # The messages of a stream are parsed as the method reads them, within the guard; a single one before it.
        parse = (_strict if inner.request_streaming else _tolerant)(inner.request_deserializer)
        return make(handle, parse, inner.response_serializer)

    def _answering(self, method: str, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        longer = LONG_CALLS.get(method)

        async def run(request: Any, context: Context) -> Any:
            if hasattr(request, "__aiter__"):
                who = await self._admit_stream(method, context)
                CALLER.set(who)
                async with self._stream_of(who):
                    return await behaviour(request, context)
            async with asyncio.timeout(UNARY_SECONDS) as deadline:
                CALLER.set(await self._admit(method, context))
                if longer is not None:
                    deadline.reschedule(asyncio.get_running_loop().time() + longer)
                return await behaviour(_parsed(request), context)

        return self._guarded(method, run)

    def _streaming(self, method: str, behaviour: Callable[..., Any]) -> Callable[..., Awaitable[None]]:
        async def run(request: Any, context: Context) -> None:
            who = await self._admit_stream(method, context)
            CALLER.set(who)
            async with self._stream_of(who):
                # The caller knows by it that the stream is accepted, however long the first message takes.
                await context.send_initial_metadata(())
                answers = behaviour(_parsed(request), context)
                # A method yields its messages, or writes them itself.
                if hasattr(answers, "__aiter__"):
                    async with aclosing(answers):
                        async for message in answers:
                            await context.write(message)
                else:
                    await answers

        return self._guarded(method, run)

    def _guarded(self, method: str, run: Callable[[Any, Context], Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return what grpc calls. A call that fails leaves nothing in a cycle: garbage is looked for seldom (ADR 0019).

        grpc keeps the error of `abort` in the state of the call, which the context has: whatever that error leads to,
        by its traceback or as the error that was being handled, would stay with the whole request. A generator in a
        cycle is worse: the collector wakes it up for the loop to close, and then it is an older object.
        """

        async def call(request: Any, context: Context) -> Any:
            end: _End | BaseException | None = None
            try:
                try:
                    answer = await run(request, context)
                except BaseException as error:  # noqa: BLE001 - whatever it is becomes a status here, and only here
                    end = self._end_of(method, error)
                finally:
                    if hasattr(request, "__aiter__"):
                        # Where the method did not read to the end, grpc's generator has the last message, in a cycle.
                        await aiter(request).aclose()
                if isinstance(end, BaseException):
                    raise end
                if end is not None:
                    await context.abort(*end)
                self._observe(method, "OK")
                return answer
            finally:
                # The error that leaves here has this frame in its traceback.
                del request, context, end

        return call

    @asynccontextmanager
    async def _stream_of(self, who: Caller) -> AsyncIterator[None]:
        """Count a stream of a caller while it is open, so that one caller cannot take all; end it with its credential.

        Raises:
            LimitExceeded: the caller has too many.
            Unauthenticated: the credential is no longer good (security.md, S11).
        """
        limit = MOST_AGENT_STREAMS if who.role is Role.AGENT else MOST_STREAMS
        if who is not ANYBODY and self._open[who.token_id] >= limit:
            raise LimitExceeded(f"stream limit: {limit} at the same time with one credential")
        self._open[who.token_id] += 1
        reasons: list[str] = []
        try:
            async with asyncio.timeout(None) as life:

                def end(reason: str) -> None:
                    if not reasons:
                        life.reschedule(0)
                    reasons.append(reason)

                with nullcontext() if who is ANYBODY else self._auth.watch(who.token_id, end):
                    yield
        except TimeoutError:
            if reasons and life.expired():
                raise Unauthenticated(reasons[0]) from None
            raise
        finally:
            self._open[who.token_id] -= 1
            if not self._open[who.token_id]:
                del self._open[who.token_id]

    async def _admit_stream(self, method: str, context: Context) -> Caller:
        """Do as `_admit` for a call that has no deadline of its own.

        Raises:
            Unavailable: the database does not answer who calls.
        """
        ARRIVED.set(asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(UNARY_SECONDS):
                return await self._admit(method, context)
        except TimeoutError:
            raise Unavailable("the database does not answer: try again") from None

    async def _admit(self, method: str, context: Context) -> Caller:
        roles = POLICY[method]
        if roles is PUBLIC:
            return ANYBODY
        credentials = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
        # Two identities on one call are a trick or a mistake, whichever of them would win.
        if len(credentials) != 1 or not isinstance(credentials[0], str) or not credentials[0].startswith(_BEARER):
            raise Unauthenticated(INVALID)
        text = credentials[0][len(_BEARER) :]
        caller = self._auth.cached(text) or await self._auth.authenticate(text, address_of(context))
        if caller.role not in roles:
            raise Forbidden(refusal(caller.role, roles))
        if caller.pending and method not in WHILE_PENDING:
            raise NotAdmitted(PENDING_APPROVAL)
        return caller

    def _end_of(self, method: str, error: BaseException) -> _End | BaseException:
        """Return the status that an error becomes, or the error to raise: grpc's own, and that of a cancellation."""
        status = self._status_of(method, error)
        forget_traces(error)
        return status

    def _status_of(self, method: str, error: BaseException) -> _End | BaseException:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if not isinstance(error, Exception) or isinstance(error, aio.BaseError):
            return error
        if isinstance(error, ArcentraError):
            status = to_status(error)
            self._observe(method, status.code.name)
            metadata = (*(status.trailing_metadata or ()), ("x-error-reason", error.reason))
            return _End(status.code, status.details, metadata)
        if isinstance(error, TimeoutError):
            self._observe(method, "DEADLINE_EXCEEDED")
            return _End(grpc.StatusCode.DEADLINE_EXCEEDED, "the server gave this call up: it took too long")
        error_id = secrets.token_hex(8)
        self._observe(method, "INTERNAL")
        _log.error("rpc_failed", method=method, error_id=error_id, exc_info=error)
        return _End(grpc.StatusCode.INTERNAL, f"internal error (request {error_id})")


def _strict(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        try:
            return deserialize(data) if deserialize else data
        except Exception:  # noqa: BLE001 - the parser's error says nothing that a caller should see
            raise _malformed() from None

    return parse


def _tolerant(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    strict = _strict(deserialize)

    def parse(data: bytes) -> Any:
        try:
            return strict(data)
        except ValidationError:
            return _Malformed()

    return parse


def _parsed(request: Any) -> Any:
    if isinstance(request, _Malformed):
        raise _malformed()
    return request


def _malformed() -> ValidationError:
    return ValidationError.at("", "malformed request")
