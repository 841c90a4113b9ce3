"""Whether any agent can serve a job, whatever it is doing now, and what the nearest one lacks if none can."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from arcentra_server.domain.cell_selectors import selector_of
from arcentra_server.domain.definition import JobSpec, PipelineSpec
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.labels import LabelSet
from arcentra_server.domain.matrix import job_cells
from arcentra_server.domain.selectors import Operator, Selector, Term

NO_AGENT = "no agent is registered: a run waits until one joins"
MOST_SELECTORS = 100
"""So many different selectors of a definition are looked at; each costs a look at every agent."""


@dataclass(frozen=True, slots=True)
class AgentLabels:
    """An agent and its labels in force."""

    name: str
    labels: LabelSet


def fleet_warnings(
    spec: PipelineSpec, agents: Sequence[AgentLabels], among: Container[Selector] | None = None
) -> list[Fault]:
    """Return a warning for every job, and step with a selector of its own, that no agent can serve.

    `among`: look only at these selectors of the definition, None for all.
    """
    if not agents:
        return [Fault("", NO_AGENT)]
    known: dict[Selector, str | None] = {}
    warnings = []
    for path, what, selector in _selectors(spec):
        if among is not None and selector not in among:
            continue
        if selector not in known:
            if len(known) >= MOST_SELECTORS:
                continue
            known[selector] = unserved(selector, agents)
        if missing := known[selector]:
            warnings.append(Fault(f"{path}.agent_selector", f"no registered agent can serve this {what}: {missing}"))
    return list(dict.fromkeys(warnings))


def unserved_selectors(
    spec: PipelineSpec, agents: Sequence[AgentLabels], most_looks: float = math.inf
) -> set[Selector] | None:
    """Return the selectors for which `fleet_warnings` has a warning, without what the nearest agent lacks.

    None: it takes more than `most_looks` to tell, at a selector of the definition or at an agent for one.
    """
    looks = 0
    seen: set[Selector] = set()
    found = set()
    for _, _, selector in _selectors(spec):
        looks += 1
        if selector not in seen and len(seen) < MOST_SELECTORS:
            seen.add(selector)
            for agent in agents:
                looks += 1
                if agent.labels.admit(selector):
                    break
                if looks > most_looks:
                    return None
            else:
                found.add(selector)
        if looks > most_looks:
            return None
    return found


def asks_for_labels(spec: PipelineSpec) -> bool:
    """Answer whether a definition has a selector with conditions: whether it matters which labels agents have."""
    return next(_selectors(spec), None) is not None


def unserved(selector: Selector, agents: Sequence[AgentLabels]) -> str | None:
    """Return what the nearest of some agents lacks, None when one can serve."""
    asks = selector.asks
    best: tuple[int, str, str] | None = None
    for agent in agents:
        lacks = [term for term in selector.terms if not term.matches(agent.labels.values)]
        unasked = agent.labels.reserved - asks
        if not lacks and not unasked:
            return None
        distance = len(lacks) + len(unasked)
        # Put into words only if it may count: of thousands of agents few are nearer than those before them.
        if best is None or (distance, agent.name) < best[:2]:
            best = distance, agent.name, f"nearest is `{agent.name}`, which {_why(lacks, unasked)}"
    return best[2] if best else NO_AGENT


def _why(lacks: Sequence[Term], unasked: Iterable[str]) -> str:
    reserved = ", ".join(sorted(unasked))
    return " and ".join(
        [
            *([f"lacks {', '.join(map(in_words, lacks))}"] if lacks else ()),
            *([f"is reserved for what asks for the label {reserved}"] if reserved else ()),
        ]
    )


def in_words(term: Term) -> str:
    """Return a condition as people write it: `arch=arm64`, `cores>4`, `os not in (linux, darwin)`."""
    values = ", ".join(term.values)
    match term.operator:
        case Operator.IN:
            return f"{term.key}={values}" if len(term.values) == 1 else f"{term.key} in ({values})"
        case Operator.NOT_IN:
            return f"{term.key} not in ({values})"
        case Operator.EXISTS:
            return f"a label {term.key}"
        case Operator.NOT_EXISTS:
            return f"the absence of a label {term.key}"
        case Operator.GT:
            return f"{term.key}>{values}"
        case Operator.LT:
            return f"{term.key}<{values}"


def _selectors(spec: PipelineSpec) -> Iterator[tuple[str, str, Selector]]:
    """Yield every selector that has conditions: its path, what it is of, itself."""
    for path, job in spec.jobs():
        if job.selector is not None and job.selector.terms and _runs_on_its_own(job):
            for cell in job_cells(job):
                yield path, "job", selector_of(job.selector, cell)
        for index, step in enumerate(job.steps):
            if step.selector is not None and step.selector.terms:
                for cell in job_cells(job):
                    yield f"{path}.steps[{index}]", "step", selector_of(step.selector, cell)


def _runs_on_its_own(job: JobSpec) -> bool:
    """Answer whether any step of a job runs on the agent of the job."""
    return job.source is not None or job.target is not None or any(step.selector is None for step in job.steps)
