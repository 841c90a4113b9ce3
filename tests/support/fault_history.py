"""What clients asked for while faults went on, and what they were told: the third witness beside journals and database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import aio

_AGAIN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
}
_CALL_SECONDS = 20.0
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Call:
    """One thing that a client wanted, until it was answered for good. Times are Unix seconds.

    `subject`: the id that it is about, of a trigger the run that it started. `refused`: the code, empty when it was done.
    `tries`: how often it was sent; one that was sent more than once may have been done by any of them.
    """

    what: str
    subject: str
    begun: float
    answered: float
    refused: str = ""
    tries: int = 1


@dataclass
class History:
    """The calls of all clients.

    `keeps_leases`: nothing that happens is a reason to take an agent for lost.
    """

    begun: float = field(default_factory=time.time)
    calls: list[Call] = field(default_factory=list)
    keeps_leases: bool = False

    def of(self, what: str) -> list[Call]:
        """Return the calls of a kind that were done."""
        return [call for call in self.calls if call.what == what and not call.refused]

    async def insist(
        self,
        what: str,
        call: Callable[[], Awaitable[Any]],
        subject: str = "",
        *,
        subject_of: Callable[[Any], str] | None = None,
        may_be_refused: bool = False,
        within: float = 600.0,
    ) -> Any:
        """Make a call until it is answered, by a reply or by a refusal that trying again does not cure.

        Returns the reply, None when it was refused and may be: what is done by a call whose answer was lost may be
        refused to the next.

        Raises:
            TimeoutError: nobody answered within so many seconds.
            AioRpcError: it was refused, and may not be.
        """
        begun, tries = time.time(), 0
        async with asyncio.timeout(within):
            while True:
                tries += 1
                try:
                    async with asyncio.timeout(_CALL_SECONDS):
                        answer = await call()
                except (aio.AioRpcError, TimeoutError) as error:
                    if isinstance(error, aio.AioRpcError) and error.code() not in _AGAIN:
                        self.calls.append(Call(what, subject, begun, time.time(), error.code().name, tries))
                        if may_be_refused and tries > 1:
                            return None
                        raise
                    await asyncio.sleep(_PAUSE_SECONDS)
                else:
                    found = subject_of(answer) if subject_of else subject
                    self.calls.append(Call(what, found, begun, time.time(), "", tries))
                    return answer
