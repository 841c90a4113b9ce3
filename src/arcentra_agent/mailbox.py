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
        self._heartbeat_asked = False

    def put(self, item: Item) -> None:
        """Queue an item for the server; reports are dated now."""
        if isinstance(item, agent_pb2.TaskStatus):
            item.timestamp = int(time.time())
        self.outbox.put(item)
        self._bell.set()

    def ask_for_heartbeat(self) -> None:
        """Have a heartbeat sent now and not at its time: something it tells has changed."""
        self._heartbeat_asked = True
        self._bell.set()

    def take_heartbeat_request(self) -> bool:
        """Tell whether a heartbeat was asked for since this was last called."""
        asked, self._heartbeat_asked = self._heartbeat_asked, False
        return asked

    async def wait(self, seconds: float) -> None:
        """Return when something is pending or a heartbeat is asked for, at the latest after so many seconds."""
        if self.outbox.has_pending or self._heartbeat_asked:
            return
        self._bell.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._bell.wait()
