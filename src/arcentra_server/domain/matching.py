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

MOST_COMPARED_NAMES = 500_000
"""The same of names of repositories, branches and tags."""

_SHOWN_GLOBS = 200


@dataclass(slots=True)
class Effort:
    """What is left of `MOST_COMPARED` and, in `names`, of `MOST_COMPARED_NAMES` for the triggers of one delivery.

    They are apart: a push of many files must not keep triggers from comparing its branch.
    """

    left: int = MOST_COMPARED
    names: int = MOST_COMPARED_NAMES

    def allows(self, cost: int) -> bool:
        """Take the cost of paths off what is left; answer whether there was that much."""
        self.left -= cost
        return self.left >= 0

    def allows_name(self, cost: int) -> bool:
        """Take the cost of a name off what is left if there is that much; answer whether there was.

        One that is too much takes nothing: by it a trigger is left out, and the next one is not.
        """
        if cost > self.names:
            return False
        self.names -= cost
        return True


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
        effort: Of the delivery, for all triggers; when it is used up, a rule for paths is not applied, and any other rule
            leaves the event out.
    """
    if event.kind not in trigger.events:
        return Match(fires=False, reason=f"events: {event.kind} is not one of {', '.join(trigger.events)}")
    if event.ignored:
        return Match(fires=False, reason=event.ignored)
    left_out = _left_out("repos", "repository", event.repo, trigger.repos, effort)
    if left_out:
        return Match(fires=False, reason=left_out)
    if event.kind == Kind.TAG:
        left_out = _left_out("tags", "tag", event.tag, trigger.tags, effort)
    else:
        left_out = _left_out("branches", "branch", event.branch, trigger.branches, effort)
        # The tag of an event that is neither is for a generic hook to tell.
        left_out = left_out or (_left_out("tags", "tag", event.tag, trigger.tags, effort) if event.tag else "")
    if left_out:
        return Match(fires=False, reason=left_out)
    return _match_paths(trigger, event, effort)


def _left_out(rule: str, what: str, text: str, globs: tuple[str, ...], effort: Effort) -> str:
    if not globs:
        return ""
    if not text:
        return f"{rule}: the event has no {what}"
    wanted = read_globs(globs)
    if not effort.allows_name(wanted.cost(text)):
        return f"{rule}: to compare the {what} with all globs of all triggers takes too long"
    return "" if wanted.passes(text) else f"{rule}: {text} does not pass {_shown(globs)}"


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
