"""What stands in a pipeline document: every key with its kind and what it is for.

The reader takes from here which keys there are, the JSON Schema all of it; so neither knows a key that the other does
not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum, auto

from arcentra_server.domain.channels import CHANNELS
from arcentra_server.domain.definition import CatchUp
from arcentra_server.domain.part_checks import RETRIED
from arcentra_server.domain.selectors import Operator
from arcentra_server.domain.targets import TARGETS

_MERGE = "merge keys are not supported: write the keys out, or give a whole value an anchor"


class Kind(Enum):
    """What the value of a key is."""

    NAME = auto()
    TEXT = auto()
    DURATION = auto()
    FLAG = auto()
    NUMBER = auto()
    NAMES = auto()
    TEXTS = auto()
    MAP = auto()
    DATA = auto()
    SECRETS = auto()
    SHAPE = auto()
    SHAPES = auto()


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `of`: the shape of the value, or of the items of a list; `one_of`: the texts that it may be."""

    kind: Kind
    about: str
    of: Shape | None = None
    one_of: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """A mapping with known keys, which may be written in snake_case and in camelCase. `needed`: those without default."""

    name: str
    about: str
    keys: Mapping[str, Key]
    needed: tuple[str, ...] = ()
    spellings: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        spellings = {spelling: name for name in self.keys for spelling in (name, camel(name))}
        object.__setattr__(self, "spellings", spellings)


def camel(name: str) -> str:
    """Return a key in camelCase."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def unknown_key(key: str, spellings: Collection[str]) -> str:
    """Return the text for a key that is none of the known ones."""
    if key == "<<":
        return _MERGE
    close = get_close_matches(key[:80], spellings, n=1)
    return f"unknown key; did you mean {close[0]!r}?" if close else f"unknown key {key[:80]!r}"


EXPRESSION = Shape(
    "expression",
    "One condition on one label of an agent.",
    {
        "key": Key(Kind.TEXT, "The label."),
        "operator": Key(Kind.TEXT, "How it is compared.", one_of=tuple(Operator)),
        "values": Key(
            Kind.TEXTS, "What it is compared with: one or more for In and NotIn, one number for Gt and Lt, else none."
        ),
    },
    ("key", "operator"),
)
SELECTOR = Shape(
    "selector",
    "Which agents may run something: every label and every expression must hold.",
    {
        "match_labels": Key(Kind.MAP, "Labels that the agent must have, with exactly these values."),
        "match_expressions": Key(Kind.SHAPES, "Further conditions.", EXPRESSION),
    },
)
ARTIFACT = Shape(
    "artifact",
    "Files to keep of a step that has ended well.",
    {
        "name": Key(Kind.NAME, "Name, unique in the job."),
        "path": Key(Kind.TEXT, "Path or glob in the workspace."),
        "destination": Key(Kind.TEXT, "Path in the artifact, in place of `path`."),
        "expire": Key(Kind.FLAG, "Whether it is removed after `expire_days`; by default when that is given."),
        "expire_days": Key(Kind.NUMBER, "Days to keep it; by default as the server has it.", least=0, most=3_650),
    },
    ("name", "path"),
)
STEP = Shape(
    "step",
    "One operation of a job, carried out by a plugin on an agent.",
    {
        "name": Key(Kind.NAME, "Name, unique in the job."),
        "uses": Key(Kind.TEXT, "Plugin: `name` or `name@version`, for example shell or git."),
        "action": Key(Kind.TEXT, "What the plugin is to do; by default its usual action."),
        "args": Key(Kind.DATA, "Arguments of the action. Texts may hold ${{ }}."),
        "env": Key(Kind.MAP, "Environment variables, over those of the job. Texts may hold ${{ }}."),
        "secrets": Key(Kind.SECRETS, "Secrets that the step gets as environment variables: names, or VARIABLE: NAME."),
        "timeout": Key(Kind.DURATION, "Time limit; by default only that of the job."),
        "when": Key(Kind.TEXT, "Condition in CEL; by default `success()`. False: the step is skipped."),
        "image": Key(Kind.TEXT, "Container image to run in; by default on the agent itself. May hold ${{ }}."),
        "artifacts": Key(Kind.SHAPES, "Files to keep.", ARTIFACT),
        "continue_on_error": Key(Kind.FLAG, "Whether the job goes on when the step fails, and ends PARTIAL at best."),
        "agent_selector": Key(Kind.SHAPE, "Agents for this step alone, in a fresh workspace.", SELECTOR),
        "run_on_agent": Key(Kind.FLAG, "Without effect: every step runs on an agent."),
    },
    ("name", "uses"),
)
AUTH = Shape(
    "auth",
    "Access to a repository: a token, or user name and password.",
    {
        "username": Key(Kind.TEXT, "User name, in clear."),
        "password": Key(Kind.TEXT, "Reference to the password: ${{ secrets.NAME }}."),
        "token": Key(Kind.TEXT, "Reference to the token: ${{ secrets.NAME }}. It goes before the password."),
    },
)
SOURCE = Shape(
    "source",
    "Code that a job works on, cloned by a first step `source`. All jobs of a run see the same commit.",
    {
        "type": Key(Kind.TEXT, "Kind of source.", one_of=("git",)),
        "repo": Key(Kind.TEXT, "Address of the repository. May hold ${{ }}."),
        "branch": Key(Kind.TEXT, "Branch, when the run names none; by default the repository's. May hold ${{ }}."),
        "auth": Key(Kind.SHAPE, "Access to the repository.", AUTH),
        "depth": Key(Kind.NUMBER, "Commits of history to fetch; 0, the default: all.", least=0, most=1_000_000),
        "submodules": Key(Kind.FLAG, "Whether to fetch submodules too."),
    },
    ("type", "repo"),
)
TARGET = Shape(
    "target",
    "Place that a job deploys to, by a last step `target`.",
    {
        "type": Key(Kind.TEXT, "Kind of place.", one_of=tuple(TARGETS)),
        "config": Key(Kind.DATA, "Settings of that kind. Texts may hold ${{ }}."),
    },
    ("type", "config"),
)
NOTIFICATION = Shape(
    "notification",
    "One message.",
    {
        "plugin": Key(Kind.TEXT, "Channel.", one_of=tuple(CHANNELS)),
        "action": Key(Kind.TEXT, "What the channel is to do; by default it sends a message."),
        "args": Key(Kind.DATA, "Address, title, text and what else the channel needs. Texts may hold ${{ }}."),
    },
    ("plugin",),
)
NOTIFY = Shape(
    "notify",
    "Whom to tell when a job has ended. A message that cannot be delivered never changes a run.",
    {
        "on_success": Key(Kind.SHAPE, "Sent when it ended well.", NOTIFICATION),
        "on_failure": Key(Kind.SHAPE, "Sent when it failed or ran out of time.", NOTIFICATION),
    },
)
_GATE = {
    "approvers": Key(Kind.TEXTS, "Who may approve; by default everybody with the role."),
    "needed": Key(Kind.NUMBER, "How many have to approve; by default 1.", least=1, most=100),
    "separation": Key(Kind.FLAG, "Whether who triggered the run may not approve."),
    "timeout": Key(Kind.DURATION, "When nobody decides for so long, it counts as refused; by default it waits."),
}
GATE = Shape("gate", "Rules of a gate.", _GATE)
APPROVAL = Shape(
    "approval",
    "A gate that people decide, once for each run. Its rules stand here, or in `args`.",
    {
        **_GATE,
        "required": Key(Kind.FLAG, "False: there is no gate."),
        "type": Key(Kind.TEXT, "How it is decided.", one_of=("manual",)),
        "plugin": Key(Kind.TEXT, "Who asks the approvers; by default they look for themselves.", one_of=("manual",)),
        "args": Key(Kind.SHAPE, "Rules of the gate.", GATE),
    },
)
RETRY = Shape(
    "retry",
    "When a failed job runs again.",
    {
        "max_attempts": Key(Kind.NUMBER, "Attempts in all, the first included.", least=1, most=10),
        "delay": Key(Kind.DURATION, "Pause before the next attempt; by default none."),
        "on": Key(Kind.NAMES, "What is retried; by default any failure.", one_of=RETRIED),
    },
    ("max_attempts",),
)
JOB = Shape(
    "job",
    "The smallest thing that is scheduled: its steps run in order on one agent in one workspace.",
    {
        "name": Key(Kind.NAME, "Name, unique in the pipeline."),
        "description": Key(Kind.TEXT, "Free text."),
        "depends_on": Key(Kind.NAMES, "Jobs of the same stage that must have ended before this one starts."),
        "when": Key(Kind.TEXT, "Condition in CEL; by default `success()`. False: the job is skipped."),
        "matrix": Key(Kind.SHAPE, "Values for which the job runs, once for each combination."),
        "agent_selector": Key(Kind.SHAPE, "Agents that may run the job; by default any.", SELECTOR),
        "priority": Key(Kind.NUMBER, "Place in the queue: higher goes first; by default 0.", least=-100, most=100),
        "timeout": Key(Kind.DURATION, "Time limit; by default the server's."),
        "retry": Key(Kind.SHAPE, "When it runs again.", RETRY),
        "allow_failure": Key(Kind.FLAG, "Whether the run goes on when the job fails, and ends PARTIAL at best."),
        "concurrency": Key(Kind.TEXT, "Key that only so many jobs of the namespace hold at a time, over all runs."),
        "concurrency_limit": Key(Kind.NUMBER, "How many hold the key; by default 1.", least=1, most=1_000),
        "cancel_in_progress": Key(Kind.FLAG, "Whether older jobs with the key are cancelled when this one wants it."),
        "env": Key(Kind.MAP, "Environment variables of all steps, over the variables. Texts may hold ${{ }}."),
        "source": Key(Kind.SHAPE, "Code to clone into the workspace.", SOURCE),
        "steps": Key(Kind.SHAPES, "Its steps, in order; at least one unless it has a source or a target.", STEP),
        "outputs": Key(Kind.MAP, "Texts with ${{ }} over the outputs of its steps, for jobs that depend on it."),
        "target": Key(Kind.SHAPE, "Place to deploy to.", TARGET),
        "approval": Key(Kind.SHAPE, "Gate after the job succeeded, before anything that depends on it.", APPROVAL),
        "notify": Key(Kind.SHAPE, "Whom to tell of its end.", NOTIFY),
    },
    ("name",),
)
STAGE = Shape(
    "stage",
    "Jobs between two points of the order of a run: a stage begins when the one before it has ended.",
    {
        "name": Key(Kind.NAME, "Name, unique in the pipeline."),
        "approval": Key(Kind.SHAPE, "Gate before any job of the stage starts.", APPROVAL),
        "jobs": Key(Kind.SHAPES, "Its jobs, at least one.", JOB),
    },
    ("name", "jobs"),
)
_VARIABLES = Key(Kind.MAP, "Variables of the run, over those of the pipeline.")
_CRON = {
    "schedule": Key(Kind.TEXT, "Five fields as cron has them, or one of @hourly, @daily, @weekly, @monthly, @yearly."),
    "time_zone": Key(Kind.TEXT, "Name in the IANA database, for example Europe/Berlin; by default UTC."),
    "catch_up": Key(Kind.TEXT, "What is made up for after a time without a server.", one_of=tuple(CatchUp)),
    "branch": Key(Kind.TEXT, "Branch of the run; by default as the source says."),
    "variables": _VARIABLES,
}
_EVENT = {
    "events": Key(Kind.TEXTS, "push, tag, pull_request, or names of a generic hook."),
    "branches": Key(Kind.TEXTS, "Globs, `!` in front excludes; by default every branch."),
    "tags": Key(Kind.TEXTS, "Globs, `!` in front excludes; by default every tag."),
    "paths": Key(Kind.TEXTS, "Globs, `!` in front excludes; by default every file."),
    "repos": Key(Kind.TEXTS, "Globs for owner/name, `!` in front excludes; by default every repository of the hook."),
    "variables": _VARIABLES,
}
OPTIONS = {
    "cron": Shape("cron_options", "When a schedule starts a run.", _CRON, ("schedule",)),
    "event": Shape("event_options", "Which events start a run.", _EVENT, ("events",)),
    "manual": Shape("manual_options", "None.", {}),
}
TRIGGER = Shape(
    "trigger",
    "What starts runs by itself. Its options stand beside its type, or in `options`.",
    {
        "type": Key(Kind.TEXT, "Kind of trigger.", one_of=tuple(OPTIONS)),
        **_CRON,
        **_EVENT,
        "options": Key(Kind.SHAPE, "The options, as the API has them."),
    },
    ("type",),
)
PIPELINE = Shape(
    "pipeline",
    "A pipeline of Arcentra.",
    {
        "name": Key(Kind.NAME, "Name, unique in the namespace."),
        "namespace": Key(Kind.NAME, "Namespace; by default `default`."),
        "description": Key(Kind.TEXT, "Free text."),
        "enabled": Key(Kind.FLAG, "Whether it can be triggered; by default true."),
        "timeout": Key(Kind.DURATION, "Time limit of a run, from its first step; by default none."),
        "variables": Key(Kind.MAP, "Variables of every run; those of the trigger go over them."),
        "triggers": Key(Kind.SHAPES, "What starts runs by itself.", TRIGGER),
        "stages": Key(Kind.SHAPES, "Stages, one after the other. Either these or `jobs` are given.", STAGE),
        "jobs": Key(Kind.SHAPES, "Jobs without stages; they become one stage `default`.", JOB),
    },
    ("name",),
)
