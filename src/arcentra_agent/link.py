"""The agent's one connection: the channel, and who the agent is on it."""

import asyncio
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
from grpc import aio

from arcentra_agent.channel import Backoff, bearer
from arcentra_agent.config import AgentConfig
from arcentra_agent.credentials import Credential, reserve_room, save_credential
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
    # Given by the server, in use, and not on the disk yet.
    _unstored: Credential | None = None
    _to_store: asyncio.Event = field(default_factory=asyncio.Event)
    _storing: threading.Lock = field(default_factory=threading.Lock)
    _rotation: asyncio.Task[None] | None = None

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
            if self._rotation is not None:
                # The credential that it brings is the one to come with.
                await asyncio.wait([self._rotation])
            membership = await join(self.config, self.channel, self.credential_file, self._unstored, self._keep)
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
        """Put a new credential in the place of the one in use; it is asked for when there is room to store it.

        The old one goes on for 10 minutes. An agent that ends before it has stored the new one comes back with the old.
        Cancelled, it goes on by itself: what the server has given must not get lost.

        Raises:
            aio.AioRpcError: when the server gives none.
            OSError: when there is no room for it.
        """
        if self._rotation is None or self._rotation.done():
            self._rotation = asyncio.create_task(self._rotate(), name="rotation")
            # Told to whoever waits; nobody may any more.
            self._rotation.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._rotation)

    async def store(self) -> None:
        """Store new credentials for which there was no room at first, until cancelled; then once more."""
        backoff = Backoff(first=1.0)
        try:
            while True:
                await self._to_store.wait()
                self._to_store.clear()
                while not await asyncio.to_thread(self._stored):  # noqa: ASYNC110 - the disk tells nobody of free room
                    await asyncio.sleep(backoff.next())
                backoff.reset()
        finally:
            self._stored()

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

    async def _rotate(self) -> None:
        await asyncio.to_thread(self._reserve)
        answer = await self._new_credential()
        credential = Credential(self.agent_id, answer.auth_token)
        self._membership = replace(self.membership, credential=credential, rotate_at=half_time(answer.token_expires_at))
        self._unstored = credential
        if not await asyncio.to_thread(self._stored):
            self._to_store.set()
        _log.info("credential_rotated", agent_id=self.agent_id, expires_at=answer.token_expires_at)

    # The draft of the file is one for all that write it, in threads of their own.

    def _reserve(self) -> None:
        with self._storing:
            reserve_room(self.credential_file)

    def _keep(self, path: Path, credential: Credential) -> None:
        """Store what the agent got by joining: one that is not stored yet is nobody's any more."""
        with self._storing:
            save_credential(path, credential)
            self._unstored = None

    def _stored(self) -> bool:
        """Store the newest credential, if there is one that is not; tell whether none is left."""
        with self._storing:
            if (credential := self._unstored) is None:
                return True
            try:
                save_credential(self.credential_file, credential)
            except OSError as error:
                _log.error("credential_not_stored", path=str(self.credential_file), error=str(error))
                return False
            if self._unstored is credential:
                self._unstored = None
            return self._unstored is None
