"""Server streams read to their end over lost connections."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from grpc import StatusCode
from grpc.aio import AioRpcError, Channel, UnaryStreamCall

Resp = TypeVar("Resp")

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
# A call that has lived this long without a message is a working one on which nothing happened.
PROVEN_AFTER_S = 5.0


class Link:
    """What the streams of one command know together about the connection: an outage is told once, not once a stream.

    Calls carry the generation in which they were opened; the failure of a call older than the last outage belongs to
    that outage.
    """

    def __init__(self, tell: Callable[[str], None], longest_outage_s: float) -> None:
        self.generation = 0
        self.is_down = False
        self._down_since = 0.0
        self._tell = tell
        self._longest_outage_s = longest_outage_s

    def heard(self, generation: int) -> None:
        """Take that a call of `generation` received something."""
        if generation == self.generation:
            self.is_down = False

    def lost(self, generation: int, lived_s: float, now: float) -> bool:
        """Take that a call ended with a lost connection after `lived_s`; answers whether to go on trying."""
        if lived_s >= PROVEN_AFTER_S:
            self.heard(generation)
        if not self.is_down and generation == self.generation:
            self.generation += 1
            self.is_down = True
            self._down_since = now
            self._tell("connection lost, resuming")
        return not self.is_down or now - self._down_since < self._longest_outage_s


def is_lost_connection(error: AioRpcError, *, received: bool) -> bool:
    """Whether a failed stream may be opened again where it stopped.

    RESOURCE_EXHAUSTED and CANCELLED count only on a stream that worked: a reader cut because it was slow, a server that
    shut down. Before the first message they are refusals.
    """
    code, text = error.code(), error.details() or ""
    if code in {StatusCode.RESOURCE_EXHAUSTED, StatusCode.CANCELLED, StatusCode.ABORTED}:
        return received
    return code is StatusCode.UNAVAILABLE or (
        code in {StatusCode.INTERNAL, StatusCode.UNKNOWN} and ("RST_STREAM" in text or "Stream removed" in text)
    )


async def read_through(
    channel: Channel, link: Link, open_at: Callable[[], UnaryStreamCall[Any, Resp]]
) -> AsyncIterator[Resp]:
    """Every message of a stream; `open_at` opens it where the reader stands now.

    Raises:
        AioRpcError: the server refused the stream, or stayed away longer than the link allows.
    """
    wait = FIRST_WAIT_S
    while True:
        call, generation, opened = open_at(), link.generation, time.monotonic()
        received = False
        try:
            async for message in call:
                link.heard(generation)
                received = True
                wait = FIRST_WAIT_S
                yield message
        except AioRpcError as error:
            now = time.monotonic()
            if not is_lost_connection(error, received=received) or not link.lost(generation, now - opened, now):
                raise
        else:
            return
        finally:
            call.cancel()
        await asyncio.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_S)
        await _ready(channel)


async def _ready(channel: Channel) -> None:
    """Wait a moment for the connection, so that a stream is opened at once when the server is back."""
    try:
        async with asyncio.timeout(LONGEST_WAIT_S):
            await channel.channel_ready()
    except TimeoutError:
        return  # the next call fails and is counted
