"""What the agent says it has, for selectors: read from its options and a file, and told anew when the file changed."""

import asyncio
from dataclasses import replace

import grpc
import structlog
from grpc import aio

from arcentra_agent.channel import Backoff
from arcentra_agent.config import ConfigError, read_labels
from arcentra_agent.joining import host_labels
from arcentra_agent.link import Link
from arcentra_api.agent.v1 import agent_pb2

_CALL_TIMEOUT = 10.0
_log = structlog.get_logger("arcentra_agent")


class LabelUpdates:
    """Reads the labels again whenever it is asked to, and tells the server."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Have the labels read again; what is wrong with them ends in the log."""
        self._asked.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                config = self._link.config
                labels = await asyncio.to_thread(read_labels, config.label_option, config.label_file)
            except ConfigError as error:
                _log.error("labels_not_read", reason=str(error))
                continue
            # From now on, whenever the agent registers.
            self._link.config = replace(self._link.config, labels=labels)
            await self._tell(labels)

    async def _tell(self, labels: dict[str, str]) -> None:
        """Tell the server, as often as it takes, unless others are asked for in the meantime."""
        backoff = Backoff(first=0.5)
        while not self._asked.is_set():
            try:
                if self._link.has_joined:
                    in_force = await self._update(labels)
                    _log.info("labels_updated", labels=in_force)
                    return
            except aio.AioRpcError as error:
                _log.warning("labels_not_updated", code=error.code().name, reason=error.details())
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    return
            await asyncio.sleep(backoff.next())

    async def _update(self, labels: dict[str, str]) -> dict[str, str]:
        # All that it claims, with what the server would take from the facts of a registration.
        request = agent_pb2.UpdateLabelsRequest(agent_id=self._link.agent_id, labels={**host_labels(), **labels})
        answer = await self._link.stub.UpdateLabels(request, metadata=self._link.metadata, timeout=_CALL_TIMEOUT)
        return dict(answer.labels)
