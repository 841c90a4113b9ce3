"""Whether an event starts a trigger, and by which rule not."""

from __future__ import annotations

from dataclasses import dataclass

from arcentra_server.domain.definition import EventTrigger
from arcentra_server.domain.forge import ForgeEvent, Kind
from arcentra_server.domain.globs import read_globs

PATHS_UNKNOWN = "the rule for paths was not applied: the sender does not say which files changed"
_SHOWN_GLOBS = 200


@dataclass(frozen=True, slots=True)
class Match:
    """What a trigger makes of an event. `reason` names the rule that leaves it out, or one that was not applied."""

    fires: bool
    reason: str = ""


def match(trigger: EventTrigger, event: ForgeEvent) -> Match:
    """Apply the rules of a trigger, in the order in which they are documented."""
    if event.kind not in trigger.events:
        return Match(fires=False, reason=f"events: {event.kind} is not one of {', '.join(trigger.events)}")
    if event.ignored:
        return Match(fires=False, reason=event.ignored)
    left_out = _left_out("repos", "repository", event.repo, trigger.repos)
    if left_out:
        return Match(fires=False, reason=left_out)
    if event.kind == Kind.TAG:
        left_out = _left_out("tags", "tag", event.tag, trigger.tags)
    else:
        left_out = _left_out("branches", "branch", event.branch, trigger.branches)
        # The tag of an event that is neither is for a generic hook to tell.
        left_out = left_out or (_left_out("tags", "tag", event.tag, trigger.tags) if event.tag else "")
    if left_out:
        return Match(fires=False, reason=left_out)
    return _match_paths(trigger, event)


def _left_out(rule: str, what: str, text: str, globs: tuple[str, ...]) -> str:
    if not globs:
        return ""
    if not text:
        return f"{rule}: the event has no {what}"
    return "" if read_globs(globs).passes(text) else f"{rule}: {text} does not pass {_shown(globs)}"


def _match_paths(trigger: EventTrigger, event: ForgeEvent) -> Match:
    if not trigger.paths:
        return Match(fires=True)
    if event.paths is None:
        return Match(fires=True, reason=PATHS_UNKNOWN)
    globs = read_globs(trigger.paths)
    if any(globs.passes(path) for path in event.paths):
        return Match(fires=True)
    return Match(fires=False, reason=f"paths: none of {len(event.paths)} changed files passes {_shown(trigger.paths)}")


def _shown(globs: tuple[str, ...]) -> str:
    text = ", ".join(globs)
    return text if len(text) <= _SHOWN_GLOBS else f"{text[:_SHOWN_GLOBS]}..."
