"""Becoming known to the server: once with a registration token, from then on with the agent's own credential."""

import asyncio
import platform
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import grpc
import structlog
from grpc import aio

from arcentra_agent.channel import REFUSED, Backoff, bearer
from arcentra_agent.config import AgentConfig
from arcentra_agent.credentials import Credential, load_credential, save_credential
from arcentra_agent.step_host.boot_clock import boottime
from arcentra_api.agent.v1 import agent_pb2, agent_pb2_grpc

_CALL_TIMEOUT = 10.0
_DEFAULT_HEARTBEAT = 10.0
_log = structlog.get_logger("arcentra_agent")


class JoinRefusedError(Exception):
    """The server does not want this agent; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What the server answered; times are in seconds.

    `lease_duration` is 0 when the server does not say. `labels` are those in force. `rotate_at` is the boot time at which half of the life of the
    credential is over, None when it has no end. `is_new` tells that the agent was not known before.
    """

    credential: Credential
    heartbeat_interval: float
    lease_duration: float = 0.0
    rotate_at: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    is_pending: bool = False
    is_new: bool = False


async def join(
    config: AgentConfig,
    channel: aio.Channel,
    credential_file: Path,
    unstored: Credential | None = None,
    keep: Callable[[Path, Credential], None] = save_credential,
) -> Membership:
    """Register until the server has answered, and keep the credential it gave; the agent may have to be approved yet.

    `unstored` is a credential that is newer than the stored one. `keep` stores what the server gave, in a thread.

    Raises:
        JoinRefusedError: when the server refuses the credential and the registration token.
        CredentialError: when the stored credential cannot be read.
        OSError: when the credential cannot be stored.
    """
    backoff = Backoff()
    while True:
        credential = unstored or load_credential(credential_file)
        if credential is None and not config.registration_token:
            raise JoinRefusedError("this agent has not joined yet: give it a --registration-token")
        try:
            answer = await _register(config, channel, credential)
        except aio.AioRpcError as error:
            _log.warning("register_failed", server=config.server, code=error.code().name, reason=error.details())
            await asyncio.sleep(backoff.next())
            continue
        membership = _membership(answer, credential)
        if membership.credential != credential:
            await asyncio.to_thread(keep, credential_file, membership.credential)
        return membership


async def _register(
    config: AgentConfig, channel: aio.Channel, credential: Credential | None
) -> agent_pb2.RegisterResponse:
    """Register with the stored credential and, if that is refused, as a new agent."""
    try:
        return await _call(config, channel, credential)
    except aio.AioRpcError as error:
        if error.code() not in REFUSED:
            raise
        if credential is None:
            raise JoinRefusedError(f"the server refused the registration token: {error.details()}") from error
        # Only an unknown credential is a reason to join anew; an agent that was turned away stays away.
        unknown = error.code() is grpc.StatusCode.UNAUTHENTICATED
        if not unknown or not config.registration_token:
            hint = "; give the agent a --registration-token to join anew" if unknown else ""
            raise JoinRefusedError(
                f"the server refused the credential of agent {credential.agent_id}: {error.details()}{hint}"
            ) from error
        _log.warning("credential_refused", agent_id=credential.agent_id, reason=error.details())
    return await _register(config, channel, None)


async def _call(config: AgentConfig, channel: aio.Channel, credential: Credential | None) -> agent_pb2.RegisterResponse:
    host = host_labels()
    request = agent_pb2.RegisterRequest(
        agent_name=config.name,
        ip=await asyncio.to_thread(own_address, config.server),
        os=host["os"],
        arch=host["arch"],
        version=own_version(),
        max_concurrent_step_runs=config.capacity,
        labels=config.labels,
    )
    if credential is None:
        request.registration_token = config.registration_token
    else:
        request.agent_id, request.token = credential.agent_id, credential.token
    metadata = bearer(credential.token) if credential else ()
    stub = agent_pb2_grpc.AgentServiceStub(channel)
    return await stub.Register(request, metadata=metadata, timeout=_CALL_TIMEOUT)


def _membership(answer: agent_pb2.RegisterResponse, credential: Credential | None) -> Membership:
    token = answer.auth_token or (credential.token if credential else "")
    if not answer.agent_id or not token:
        raise JoinRefusedError(f"the server's answer names no agent: {answer.message or 'no reason given'}")
    return Membership(
        credential=Credential(answer.agent_id, token),
        heartbeat_interval=answer.heartbeat_interval / 1000 if answer.heartbeat_interval > 0 else _DEFAULT_HEARTBEAT,
        lease_duration=max(answer.lease_duration, 0) / 1000,
        rotate_at=half_time(answer.token_expires_at),
        labels=dict(answer.labels),
        is_pending=answer.pending_approval,
        is_new=credential is None or answer.agent_id != credential.agent_id,
    )


def half_time(expires_at: int) -> float | None:
    """Return the boot time at which half of the time up to then (Unix seconds, 0 for never) is over.

    By a clock that is ahead of the server's so far that the time is over already, it is up to the server to say so.
    """
    left = expires_at - time.time()
    return boottime() + left / 2 if expires_at and left > 0 else None


def host_labels() -> dict[str, str]:
    """Return what the server makes labels of by itself when an agent registers."""
    return {"os": platform.system().lower(), "arch": platform.machine()}


def own_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("arcentra-server")
    except PackageNotFoundError:
        return "0"


def own_address(server: str) -> str:
    """Return the address this host uses towards the server, without sending anything; empty if there is no way."""
    host, _, port = server.rpartition(":")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return ""
