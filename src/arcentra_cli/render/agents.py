"""Agents, as tables."""

from rich.console import RenderableType
from rich.text import Text

from arcentra_api.admin.v1 import admin_pb2
from arcentra_cli.render import words
from arcentra_cli.render.parts import columns, mapping, pairs
from arcentra_cli.terminal import one_line

_PERCENT = {"cpu_usage": "cpu", "memory_usage": "memory", "disk_usage": "disk"}
_ADVICE = {
    "PENDING_APPROVAL": "waits for `arcentra agent approve`",
    "DISABLED": "takes nothing until `arcentra agent enable`",
    "DRAINING": "finishes what it runs and takes nothing new",
}


def agents(reply: admin_pb2.ListAgentsResponse, now: float) -> RenderableType:
    """Every agent, a row each."""
    table = columns("name", "status", "slots", "load", "labels", "last contact", "platform", "version", "note", "id")
    for agent in reply.agents:
        table.add_row(
            one_line(agent.name),
            words.styled(words.agent_status(agent.status)),
            f"{agent.running_step_runs_count}/{agent.max_concurrent_step_runs}",
            _load(agent),
            one_line(mapping(agent.labels)),
            words.ago(agent.last_heartbeat, now),
            _platform(agent),
            agent.version,
            one_line(", ".join(_wants(agent))),
            agent.agent_id,
        )
    return table if reply.agents else Text("no agents: join one with `arcentra-agent run`")


def agent(detail: admin_pb2.AgentDetail, now: float) -> RenderableType:
    """One agent."""
    status = words.agent_status(detail.status)
    offline = status == "OFFLINE"
    rows: list[tuple[str, str | Text]] = [
        ("Agent", one_line(detail.name)),
        ("Id", detail.agent_id),
        ("Status", words.styled(status)),
        ("Means", _ADVICE.get(status, "")),
        ("Wanted", ", ".join(_wants(detail)) if offline else ""),
        ("Note", one_line(detail.note)),
        ("Slots", f"{detail.running_step_runs_count} of {detail.max_concurrent_step_runs} in use"),
        ("Load", _load(detail)),
        ("Labels", one_line(_labels(detail))),
        ("Overridden", one_line(_overridden(detail))),
        ("Offline since" if offline else "Last contact", _contact(detail, now)),
        ("Platform", _platform(detail)),
        ("Address", detail.ip),
        ("Version", detail.version),
    ]
    return pairs(rows)


def changed(detail: admin_pb2.AgentDetail, word: str) -> Text:
    """What became of an agent, in a line."""
    count = detail.running_step_runs_count
    runs = f", runs {count} step{'' if count == 1 else 's'}" if count else ""
    return Text(f"agent {one_line(detail.name)} {word} ({words.agent_status(detail.status)}{runs})")


def _wants(detail: admin_pb2.AgentDetail) -> list[str]:
    """What operators want of an agent, with why; its status says it too, unless it is away."""
    wants = [
        word
        for word, holds in (
            ("waits for approval", detail.pending_approval),
            ("disabled", detail.disabled),
            ("drained", detail.draining),
        )
        if holds
    ]
    return [*wants[:-1], f"{wants[-1]}: {detail.note}"] if wants and detail.note else wants


def _labels(detail: admin_pb2.AgentDetail) -> str:
    """The labels in force, each with who it comes from."""
    given, names = detail.server_labels, sorted(detail.labels)
    return ", ".join(f"{name}={detail.labels[name]} ({'server' if name in given else 'agent'})" for name in names)


def _overridden(detail: admin_pb2.AgentDetail) -> str:
    """What the agent claims and the server says otherwise."""
    return mapping(
        {
            name: value
            for name, value in detail.claimed_labels.items()
            if name in detail.server_labels and detail.server_labels[name] != value
        }
    )


def _load(detail: admin_pb2.AgentDetail) -> str:
    """`cpu 12%, memory 40%`: what the agent stated last."""
    parts = []
    for name, short in _PERCENT.items():
        try:
            parts.append(f"{short} {float(detail.metrics[name]):.0f}%" if name in detail.metrics else "")
        except ValueError:
            continue
    return ", ".join(part for part in parts if part)


def _contact(detail: admin_pb2.AgentDetail, now: float) -> str:
    if not detail.last_heartbeat:
        return "never heard of"
    return f"{words.moment(detail.last_heartbeat)} ({words.ago(detail.last_heartbeat, now)})"


def _platform(detail: admin_pb2.AgentDetail) -> str:
    return "/".join(part for part in (detail.os, detail.arch) if part)
