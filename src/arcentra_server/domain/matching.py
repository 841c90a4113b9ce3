"""Whether an event starts a trigger, and by which rule not."""

from __future__ import annotations

from dataclasses import dataclass

from arcentra_server.domain.definition import EventTrigger
from arcentra_server.domain.forge import ForgeEvent, Kind
from arcentra_server.domain.globs import read_globs

PATHS_UNKNOWN = "the rule for paths was not applied: the sender does not say which files changed"
PATHS_TOO_MANY = "the rule for paths was not applied: to compare all files that changed with all globs takes too long"
MOST_COMPARED = 2_000_000
"""How many characters of paths are compared with globs for one delivery, each with each glob it may match: some seconds."""

_SHOWN_GLOBS = 200


@dataclass(slots=True)
class Effort:
    """What is left of `MOST_COMPARED` for the triggers of one delivery."""

    left: int = MOST_COMPARED

    def allows(self, cost: int) -> bool:
        """Take a cost off what is left; answer whether there was that much."""
        self.left -= cost
        return self.left >= 0


@dataclass(frozen=True, slots=True)
class Match:
    """What a trigger makes of an event. `reason` names the rule that leaves it out, or one that was not applied."""

    fires: bool
    reason: str = ""


def match(trigger: EventTrigger, event: ForgeEvent, effort: Effort) -> Match:
    """Apply the rules of a trigger, in the order in which they are documented.

    Args:
        trigger: The trigger.
        event: What a delivery tells.
        effort: Of the delivery, for all triggers; when it is used up, a rule for paths is not applied.
    """
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
    return _match_paths(trigger, event, effort)


def _left_out(rule: str, what: str, text: str, globs: tuple[str, ...]) -> str:
    if not globs:
        return ""
    if not text:
        return f"{rule}: the event has no {what}"
    return "" if read_globs(globs).passes(text) else f"{rule}: {text} does not pass {_shown(globs)}"


def _match_paths(trigger: EventTrigger, event: ForgeEvent, effort: Effort) -> Match:
    if not trigger.paths:
        return Match(fires=True)
    if event.paths is None:
        return Match(fires=True, reason=PATHS_UNKNOWN)
    globs = read_globs(trigger.paths)
    for path in event.paths:
        if not effort.allows(globs.cost(path)):
            return Match(fires=True, reason=PATHS_TOO_MANY)
        if globs.passes(path):
            return Match(fires=True)
    return Match(fires=False, reason=f"paths: none of {len(event.paths)} changed files passes {_shown(trigger.paths)}")


def _shown(globs: tuple[str, ...]) -> str:
    text = ", ".join(globs)
    return text if len(text) <= _SHOWN_GLOBS else f"{text[:_SHOWN_GLOBS]}..."
