"""An agent that the server lets do nothing yet: it stays up, says so once, and goes on as soon as it may."""

import asyncio

import grpc
import structlog
from grpc import aio

from arcentra_agent.contact import Contact
from arcentra_agent.link import Link
from arcentra_agent.load import Load
from arcentra_agent.step_host.boot_clock import boottime
from arcentra_agent.steps import StepBoard
from arcentra_api.agent.v1 import agent_pb2

_CALL_TIMEOUT = 10.0
# Seconds after which the stream is tried anew although no answer has changed.
_LONGEST_WAIT = 60.0
_log = structlog.get_logger("arcentra_agent")


class Admission:
    """Waits for operators. In the meantime heartbeats go one by one, as there is no stream."""

    def __init__(self, link: Link, board: StepBoard, contact: Contact, load: Load) -> None:
        self._link = link
        self._board = board
        self._contact = contact
        self._load = load

    def granted(self) -> None:
        """Note that the server has opened the stream."""
        self._contact.waits_for = ""

    async def wait(self, reason: str) -> None:
        """Return when it is worth trying again; `reason` is what the server said.

        Raises:
            aio.AioRpcError: when the server does not know the credential.
        """
        self._tell(reason)
        tried_at, first = boottime(), None
        while boottime() - tried_at < _LONGEST_WAIT:
            answer = await self._beat()
            if answer is not None:
                if not answer.settings.drain:
                    return
                state = (answer.message, answer.settings.drain_reason)
                if state != (first := first or state):
                    return
                if answer.settings.rotate_credential:
                    await self._rotate()
            await asyncio.sleep(self._link.membership.heartbeat_interval)

    async def _rotate(self) -> None:
        try:
            await self._link.rotate_credential()
        except (OSError, RuntimeError) as error:
            # The server asks again with its next answer.
            _log.warning("credential_not_rotated", reason=str(error))

    def _tell(self, reason: str) -> None:
        """Say once for whom the agent waits."""
        agent_id = self._link.agent_id
        what, command = ("approval", "approve") if self._link.membership.is_pending else ("enabling", "enable")
        if what == self._contact.waits_for:
            return
        self._contact.waits_for = what
        _log.warning(f"waiting_for_{what}", agent_id=agent_id, reason=reason, do=f"arcentra agent {command} {agent_id}")

    async def _beat(self) -> agent_pb2.HeartbeatResponse | None:
        """Send one heartbeat; None when the server is not there, which the next one may find otherwise."""
        request = agent_pb2.HeartbeatRequest(
            agent_id=self._link.agent_id, metrics=self._load.take(), draining=self._board.is_draining
        )
        sent_at = boottime()
        try:
            answer = await self._link.stub.Heartbeat(request, metadata=self._link.metadata, timeout=_CALL_TIMEOUT)
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise
            _log.info("heartbeat_failed", code=error.code().name, reason=error.details())
            return None
        self._contact.note()
        self._board.lease_renewed(sent_at)
        for cancel in answer.task_cancels:
            self._board.cancel(cancel.step_run_id, cancel.reason)
        return answer
