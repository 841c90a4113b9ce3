"""`agent ...`."""

import time
from collections.abc import Iterable
from typing import Any

from rich.text import Text

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.agent.v1 import agent_pb2
from arcentra_cli.actions.lookup import is_id
from arcentra_cli.client import Client
from arcentra_cli.config import Settings
from arcentra_cli.errors import CliError
from arcentra_cli.output import emit
from arcentra_cli.render import agents as render
from arcentra_cli.session import session


async def list_agents(settings: Settings) -> None:
    """Show every registered agent."""
    async with session(settings) as client:
        reply = await client.read(client.admin.ListAgents, admin_pb2.ListAgentsRequest())
    emit(settings.output, reply, lambda: render.agents(reply, time.time()))


async def show(settings: Settings, agent: str) -> None:
    """Show one agent."""
    async with session(settings) as client:
        request = admin_pb2.GetAgentRequest(agent_id=await _find(client, agent))
        reply = await client.read(client.admin.GetAgent, request)
    emit(settings.output, reply, lambda: render.agent(reply.agent, time.time()))


async def approve(settings: Settings, agent: str) -> None:
    """Let an agent that waits for approval take step runs."""
    async with session(settings) as client:
        request = admin_pb2.ApproveAgentRequest(agent_id=await _find(client, agent))
        reply = await client.write(client.admin.ApproveAgent, request)
    _done(settings, reply, "approved")


async def drain(settings: Settings, agent: str, reason: str) -> None:
    """Let an agent finish what it runs and take nothing new."""
    async with session(settings) as client:
        request = admin_pb2.DrainAgentRequest(agent_id=await _find(client, agent), reason=reason)
        reply = await client.write(client.admin.DrainAgent, request)
    _done(settings, reply, "drains")


async def resume(settings: Settings, agent: str) -> None:
    """Let a drained agent take step runs again."""
    async with session(settings) as client:
        request = admin_pb2.ResumeAgentRequest(agent_id=await _find(client, agent))
        reply = await client.write(client.admin.ResumeAgent, request)
    _done(settings, reply, "resumed")


async def disable(settings: Settings, agent: str, reason: str) -> None:
    """Keep an agent from everything; what it runs goes on."""
    async with session(settings) as client:
        request = admin_pb2.DisableAgentRequest(agent_id=await _find(client, agent), reason=reason)
        reply = await client.write(client.admin.DisableAgent, request)
    _done(settings, reply, "disabled")


async def enable(settings: Settings, agent: str) -> None:
    """Let a disabled agent take step runs again."""
    async with session(settings) as client:
        request = admin_pb2.EnableAgentRequest(agent_id=await _find(client, agent))
        reply = await client.write(client.admin.EnableAgent, request)
    _done(settings, reply, "enabled")


async def label(settings: Settings, agent: str, changes: Iterable[str], *, replace: bool) -> None:
    """Give an agent labels, `KEY=VALUE`, or take them away, `KEY-`; with `replace` those given are all it has."""
    labels = _labels(changes, replace=replace)
    async with session(settings) as client:
        agent_id = await _find(client, agent)
        request = admin_pb2.SetAgentLabelsRequest(agent_id=agent_id, labels=labels, merge=not replace)
        reply = await client.write(client.admin.SetAgentLabels, request)
    emit(settings.output, reply, lambda: render.agent(reply.agent, time.time()))


async def remove(settings: Settings, agent: str, reason: str) -> None:
    """Remove an agent for good."""
    async with session(settings) as client:
        request = agent_pb2.UnregisterRequest(agent_id=await _find(client, agent), reason=reason)
        reply = await client.write(client.agents.Unregister, request)
    emit(settings.output, reply, lambda: Text(f"agent {agent} removed"))


def _done(settings: Settings, reply: Any, word: str) -> None:
    """Print what became of an agent."""
    emit(settings.output, reply, lambda: render.changed(reply.agent, word))


def _labels(changes: Iterable[str], *, replace: bool) -> dict[str, str]:
    """Read `KEY=VALUE` and `KEY-`, the latter as an empty value.

    Raises:
        CliError: one is neither, or there is nothing to do.
    """
    labels: dict[str, str] = {}
    for change in changes:
        name, separator, value = change.partition("=")
        if separator and name and value:
            labels[name] = value
        elif not separator and len(name) > 1 and name.endswith("-") and not replace:
            labels[name[:-1]] = ""
        else:
            raise CliError(f"{change!r} is no label: write KEY=VALUE to set one, KEY- to remove one")
    if not labels and not replace:
        raise CliError("no labels given: write KEY=VALUE to set one, KEY- to remove one")
    return labels


async def _find(client: Client, text: str) -> str:
    """The id of the agent of a name or an id.

    Raises:
        CliError: there is none of that name, or more than one.
    """
    if is_id(text):
        return text
    reply = await client.read(client.admin.ListAgents, admin_pb2.ListAgentsRequest())
    found = [str(agent.agent_id) for agent in reply.agents if agent.name == text]
    if not found:
        raise CliError(f"no agent {text!r}: see `arcentra agent list`")
    if len(found) > 1:
        raise CliError(f"{len(found)} agents are named {text!r}: name one by its id", details=tuple(found))
    return found[0]
