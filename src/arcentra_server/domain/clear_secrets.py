"""Secrets that stand in a definition in clear, where everybody who may read it reads them.

Tokens that tell by their form what they are, are faults. A variable that is only named like a secret is worth a
warning: its value may be the name of a file, or an example.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from arcentra_server.domain.definition import CronTrigger, EventTrigger, PipelineSpec
from arcentra_server.domain.errors import Fault

# No word boundary in front: in a script, and in JSON, a token follows on anything.
_KINDS = {
    "a GitHub token": r"gh[opsur]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22}",
    "a GitLab token": r"gl(?:pat|rt|dt|cbt|ptt)-[A-Za-z0-9_-]{20}",
    "an AWS key": r"A(?:KIA|SIA)[0-9A-Z]{16}",
    "a Slack token": r"xox[abeprs]-[A-Za-z0-9-]{10}",
    "an Arcentra token": r"arc_(?:pat|reg|agt)_[A-Za-z0-9_-]{16}",
    "a private key": r"-----BEGIN (?:[A-Z]+ ){0,3}PRIVATE KEY-----",
}
_LEAKED = re.compile("|".join(f"({pattern})" for pattern in _KINDS.values()))
_NAMES = tuple(_KINDS)
_TELLING = re.compile(r"(?:.*_)?(?:TOKEN|PASSWORD|PASSWD|SECRET|KEY)", re.IGNORECASE)


def leaked(text: str) -> str | None:
    """Return what to say of a text that holds a token or a key in clear, None of any other."""
    found = _LEAKED.search(text)
    if found is None or found.lastindex is None:
        return None
    return f"holds {_NAMES[found.lastindex - 1]} in clear: store it as a secret and name that in its stead"


def secret_warnings(spec: PipelineSpec) -> list[Fault]:
    """Return a warning for every variable that is named like a secret and has its value in clear."""
    return [
        Fault(
            f"{path}[{name!r}]",
            "looks like a secret in clear, which everybody who reads the pipeline sees: store it as a secret",
        )
        for path, variables in _variables(spec)
        for name, value in variables.items()
        if value and _TELLING.fullmatch(name) and "${{" not in value
    ]


def _variables(spec: PipelineSpec) -> Iterator[tuple[str, Mapping[str, str]]]:
    yield "variables", spec.variables
    for index, trigger in enumerate(spec.triggers):
        if isinstance(trigger, (CronTrigger, EventTrigger)):
            yield f"triggers[{index}].variables", trigger.variables
    for path, job in spec.jobs():
        yield f"{path}.env", job.env
        for index, step in enumerate(job.steps):
            yield f"{path}.steps[{index}].env", step.env
