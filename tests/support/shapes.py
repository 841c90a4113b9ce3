"""Pipelines in a compact notation.

`".. ?. | *"` has two stages; jobs are words, named a, b, c in order; steps are characters, numbered from 1, so that the
second step of the first job is `a2`:

    .   a step      ?   a step with continue_on_error      *   a step with a selector of its own: label `own` = `yes`
"""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_lowercase

from arcentra_server.domain.definition import JobSpec, PipelineSpec, StageSpec, StepSpec
from arcentra_server.domain.selectors import Operator, Selector, Term

OWN = {"own": "yes"}


def wants(**labels: str) -> Selector:
    """A selector of agents that have all these labels."""
    return Selector(tuple(Term(key, Operator.IN, (value,)) for key, value in labels.items()))


def shape(
    text: str, selectors: Mapping[str, Selector] | None = None, timeouts: Mapping[str, int] | None = None
) -> PipelineSpec:
    """Build a definition. `selectors` are by job, `timeouts` (ms) by job or step."""
    names = iter(ascii_lowercase)
    limits = timeouts or {}
    stages = []
    for index, words in enumerate(text.split("|")):
        jobs = []
        for word in words.split():
            name = next(names)
            steps = tuple(_step(f"{name}{number}", kind, limits) for number, kind in enumerate(word, 1))
            jobs.append(JobSpec(name, steps, timeout_ms=limits.get(name), selector=(selectors or {}).get(name)))
        stages.append(StageSpec(f"stage-{index}", tuple(jobs)))
    return PipelineSpec(tuple(stages))


def _step(name: str, kind: str, limits: Mapping[str, int]) -> StepSpec:
    return StepSpec(
        name,
        uses="shell",
        args={"script": f"echo {name}"},
        continue_on_error=kind == "?",
        selector=wants(**OWN) if kind == "*" else None,
        timeout_ms=limits.get(name),
    )
