"""Becoming known to the server: once with a registration token, from then on with the agent's own credential."""

import asyncio
import platform
import socket
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import grpc
import structlog
from grpc import aio

from arcentra_agent.channel import REFUSED, Backoff, bearer
from arcentra_agent.config import AgentConfig
from arcentra_agent.credentials import Credential, load_credential, save_credential
from arcentra_api.agent.v1 import agent_pb2, agent_pb2_grpc

_CALL_TIMEOUT = 10.0
_DEFAULT_HEARTBEAT = 10.0
_log = structlog.get_logger("arcentra_agent")


class JoinRefusedError(Exception):
    """The server does not want this agent; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What the server answered. `heartbeat_interval` is in seconds."""

    credential: Credential
    heartbeat_interval: float


async def join(config: AgentConfig, channel: aio.Channel, credential_file: Path) -> Membership:
    """Register until the server has accepted this agent, and keep the credential it gave.

    Raises:
        JoinRefusedError: when the server refuses the credential and the registration token.
        CredentialError: when the stored credential cannot be read.
        OSError: when the credential cannot be stored.
    """
    backoff = Backoff()
    while True:
        credential = load_credential(credential_file)
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
            save_credential(credential_file, membership.credential)
        if not answer.pending_approval:
            _log.info("joined", agent_id=answer.agent_id, server=config.server, labels=dict(answer.labels))
            return membership
        _log.info("waiting_for_approval", agent_id=answer.agent_id)
        await asyncio.sleep(membership.heartbeat_interval)


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
    request = agent_pb2.RegisterRequest(
        agent_name=config.name,
        ip=await asyncio.to_thread(own_address, config.server),
        os=platform.system().lower(),
        arch=platform.machine(),
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
    interval = answer.heartbeat_interval / 1000 if answer.heartbeat_interval > 0 else _DEFAULT_HEARTBEAT
    return Membership(Credential(answer.agent_id, token), interval)


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
