"""What is a fault of a trigger: its schedule, its events, its globs and its variables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from arcentra_server.domain.cron import check_schedule
from arcentra_server.domain.definition import CronTrigger, EventTrigger, TriggerSpec
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.field_checks import check_distinct, check_env
from arcentra_server.domain.globs import check_glob

MOST_TRIGGERS = 50
MOST_PATTERNS = 100
_EVENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,63}")
# As of a branch that a call names: none that git could read as an option or as another kind of revision.
_BRANCH = re.compile(r"(?!-)[^\x00-\x20\x7f~^:?*\[\\]{1,255}")


def check_triggers(triggers: Sequence[TriggerSpec]) -> list[Fault]:
    """Return every fault of the triggers of a pipeline."""
    if len(triggers) > MOST_TRIGGERS:
        return [Fault("triggers", f"{len(triggers)} triggers, more than {MOST_TRIGGERS}")]
    faults = []
    for index, trigger in enumerate(triggers):
        path = f"triggers[{index}]"
        if isinstance(trigger, CronTrigger):
            faults += _check_cron(trigger, path)
        elif isinstance(trigger, EventTrigger):
            faults += _check_event(trigger, path)
    return faults


def _check_cron(trigger: CronTrigger, path: str) -> list[Fault]:
    if trigger.schedule:
        # Each names by itself what it is about.
        faults = [Fault(f"{path}.schedule", text) for text in check_schedule(trigger.schedule, "UTC")]
        faults += [Fault(f"{path}.time_zone", text) for text in check_schedule("@daily", trigger.time_zone)]
    else:
        faults = [Fault(f"{path}.schedule", "is required, for example 30 2 * * *")]
    if trigger.branch and not _BRANCH.fullmatch(trigger.branch):
        faults.append(Fault(f"{path}.branch", f"{trigger.branch[:80]!r} is not a branch"))
    return faults + check_env(trigger.variables, f"{path}.variables")


def _check_event(trigger: EventTrigger, path: str) -> list[Fault]:
    faults = []
    if not trigger.events:
        faults.append(Fault(f"{path}.events", "at least one is needed, for example push"))
    for index, event in enumerate(trigger.events[:MOST_PATTERNS]):
        if not _EVENT.fullmatch(event):
            faults.append(Fault(f"{path}.events[{index}]", f"{event[:80]!r} is not the name of an event"))
    globs = {"branches": trigger.branches, "tags": trigger.tags, "paths": trigger.paths, "repos": trigger.repos}
    parts = {"events": trigger.events, **globs}
    for name, texts in parts.items():
        if len(texts) > MOST_PATTERNS:
            faults.append(Fault(f"{path}.{name}", f"{len(texts)} entries, more than {MOST_PATTERNS}"))
        else:
            faults += check_distinct(texts, f"{path}.{name}")
    for name, patterns in globs.items():
        for index, glob in enumerate(patterns[:MOST_PATTERNS]):
            faults += [Fault(f"{path}.{name}[{index}]", text) for text in check_glob(glob)]
    return faults + check_env(trigger.variables, f"{path}.variables")
