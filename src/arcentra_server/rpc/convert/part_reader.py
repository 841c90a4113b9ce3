"""Parts of a definition that documents and Structs of the contract write alike: gates, triggers."""

from __future__ import annotations

from typing import Protocol

from arcentra_server.domain.definition import (
    ApprovalSpec,
    CatchUp,
    CronTrigger,
    EventTrigger,
    ManualTrigger,
    TriggerSpec,
)
from arcentra_server.rpc.convert.fields import Findings


class Part(Protocol):
    """A mapping with known keys, whatever it is written in."""

    @property
    def findings(self) -> Findings: ...
    def __contains__(self, name: str) -> bool: ...
    def path(self, name: str) -> str: ...
    def text(self, name: str) -> str: ...
    def flag(self, name: str, *, default: bool = False) -> bool: ...
    def number(self, name: str, *, default: int = 0) -> int: ...
    def duration(self, name: str) -> int | None: ...
    def texts(self, name: str) -> dict[str, str]: ...
    def list_of_text(self, name: str) -> list[str]: ...


def gate_of(part: Part) -> ApprovalSpec:
    """Read the rules of a gate."""
    return ApprovalSpec(
        approvers=tuple(part.list_of_text("approvers")),
        needed=part.number("needed", default=1),
        separation=part.flag("separation"),
        timeout_ms=part.duration("timeout"),
    )


def trigger_of(kind: str, part: Part) -> TriggerSpec:
    """Read the options of a trigger of a known kind: `cron`, `event` or `manual`."""
    if kind == "cron":
        return CronTrigger(
            schedule=part.text("schedule"),
            time_zone=part.text("time_zone") or "UTC",
            catch_up=_catch_up(part),
            branch=part.text("branch"),
            variables=part.texts("variables"),
        )
    if kind == "event":
        return EventTrigger(
            events=tuple(part.list_of_text("events")),
            branches=tuple(part.list_of_text("branches")),
            tags=tuple(part.list_of_text("tags")),
            paths=tuple(part.list_of_text("paths")),
            repos=tuple(part.list_of_text("repos")),
            variables=part.texts("variables"),
        )
    return ManualTrigger()


def _catch_up(part: Part) -> CatchUp:
    text = part.text("catch_up")
    try:
        return CatchUp(text or CatchUp.NONE)
    except ValueError:
        part.findings.add(part.path("catch_up"), f"{text[:64]!r} is not known: write {' or '.join(CatchUp)}")
        return CatchUp.NONE
