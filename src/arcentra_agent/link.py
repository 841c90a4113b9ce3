"""The agent's one connection: the channel, and who the agent is on it."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from grpc import aio

from arcentra_agent.channel import Backoff, bearer
from arcentra_agent.config import AgentConfig
from arcentra_agent.credentials import Credential, save_credential
from arcentra_agent.joining import Membership, half_time, join
from arcentra_agent.step_host.boot_clock import boottime
from arcentra_api.agent.v1 import agent_pb2, agent_pb2_grpc

_CALL_TIMEOUT = 10.0
# Seconds between looks at the clock: the sleep of a machine stops timers, not the life of a credential.
_LOOK = 30.0
_log = structlog.get_logger("arcentra_agent")


@dataclass(slots=True)
class Link:
    """Shared by the stream of commands and the log shipper. `joined_anew`: this process made the agent."""

    config: AgentConfig
    channel: aio.Channel
    credential_file: Path
    joined_anew: bool = False
    _membership: Membership | None = None
    _is_trusted: bool = False

    @property
    def stub(self) -> agent_pb2_grpc.AgentServiceStub:
        return agent_pb2_grpc.AgentServiceStub(self.channel)

    @property
    def membership(self) -> Membership:
        """Who the agent is, as far as it knows; only asked for after it has joined."""
        if self._membership is None:
            raise RuntimeError("the agent has not joined")
        return self._membership

    @property
    def has_joined(self) -> bool:
        return self._membership is not None

    @property
    def agent_id(self) -> str:
        return self.membership.credential.agent_id

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return bearer(self.membership.credential.token)

    async def ensure_joined(self) -> None:
        """Register if this process has not yet, or was told that its credential is not valid. Raises as `join`."""
        if not self._is_trusted:
            membership = await join(self.config, self.channel, self.credential_file)
            if not self.has_joined or membership.is_new:
                agent_id, labels = membership.credential.agent_id, dict(membership.labels)
                _log.info("joined", agent_id=agent_id, server=self.config.server, labels=labels)
            self._membership = membership
            self._is_trusted = True
            self.joined_anew = self.joined_anew or membership.is_new

    def distrust(self) -> None:
        """Register again before the next stream: the server does not know the credential, or has news of the agent."""
        self._is_trusted = False

    async def credential_aged(self) -> None:
        """Wait until half of the life of the credential is over."""
        while (rotate_at := self.membership.rotate_at) is None or boottime() < rotate_at:
            left = _LOOK if rotate_at is None else rotate_at - boottime()
            await asyncio.sleep(min(_LOOK, max(left, 0.01)))

    async def rotate_credential(self) -> None:
        """Put a new credential in the place of the one in use; it is stored before it is used.

        The old one goes on for 10 minutes. An agent that ends before it has stored the new one comes back with the old.

        Raises:
            aio.AioRpcError: when the server gives none.
        """
        answer = await self._new_credential()
        credential = Credential(self.agent_id, answer.auth_token)
        await self._store(credential)
        self._membership = replace(self.membership, credential=credential, rotate_at=half_time(answer.token_expires_at))
        _log.info("credential_rotated", agent_id=self.agent_id, expires_at=answer.token_expires_at)

    async def unregister_if_new(self, reason: str) -> None:
        """Leave for good, if it was this process that made the agent; a server that is away keeps the agent listed."""
        if not self.joined_anew:
            return
        request = agent_pb2.UnregisterRequest(agent_id=self.agent_id, reason=reason)
        try:
            await self.stub.Unregister(request, metadata=self.metadata, timeout=_CALL_TIMEOUT)
        except aio.AioRpcError as error:
            _log.warning("not_unregistered", code=error.code().name, reason=error.details())
            return
        await asyncio.to_thread(self.credential_file.unlink, missing_ok=True)
        _log.info("unregistered", agent_id=self.agent_id)

    async def _new_credential(self) -> agent_pb2.RotateCredentialResponse:
        request = agent_pb2.RotateCredentialRequest(agent_id=self.agent_id)
        return await self.stub.RotateCredential(request, metadata=self.metadata, timeout=_CALL_TIMEOUT)

    async def _store(self, credential: Credential) -> None:
        backoff = Backoff(first=1.0)
        while True:
            try:
                return await asyncio.to_thread(save_credential, self.credential_file, credential)
            except OSError as error:
                _log.error("credential_not_stored", path=str(self.credential_file), error=str(error))
                await asyncio.sleep(backoff.next())
