"""The outbox with a bell: who puts something in wakes the task that writes to the server."""

import asyncio
import contextlib
import time

from arcentra_agent.reports import Item, Outbox
from arcentra_api.agent.v1 import agent_pb2


class Mailbox:
    """Outgoing reports and acknowledgements of this agent."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self._bell = asyncio.Event()

    def put(self, item: Item) -> None:
        """Queue an item for the server; reports are dated now."""
        if isinstance(item, agent_pb2.TaskStatus):
            item.timestamp = int(time.time())
        self.outbox.put(item)
        self.ring()

    def ring(self) -> None:
        self._bell.set()

    async def wait(self, seconds: float) -> None:
        """Return when something is pending or the bell was rung, at the latest after so many seconds."""
        if self.outbox.has_pending:
            return
        self._bell.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._bell.wait()
