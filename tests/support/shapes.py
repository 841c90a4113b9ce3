"""Pipelines in a compact notation.

`".. ?. | *"` has two stages; jobs are words, named a, b, c in order; steps are characters, numbered from 1, so that the
second step of the first job is `a2`:

    .   a step      ?   a step with continue_on_error      *   a step with a selector of its own      !   with both

A letter after a step is its condition: `..a` has a second step for `always()`. The letters are those of `CONDITIONS`.
A `&` in front of the jobs of a stage is a gate before it: `". | & ."`. What else a job has follows in brackets, without
spaces: `..[needs=a,b;when=f]`. There are

    needs=a,b   when=LETTER   retry=ATTEMPTS   delay=MS   on=REASON,REASON   allow (allow_failure)   gate (after the job)
    key=NAME    most=HOLDERS  newest (cancel_in_progress)   source=REPOSITORY (makes a first step of its own)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_lowercase

from arcentra_server.domain.definition import (
    ApprovalSpec,
    GitSource,
    JobSpec,
    PipelineSpec,
    RetrySpec,
    StageSpec,
    StepSpec,
)
from arcentra_server.domain.selectors import Operator, Selector, Term

OWN = {"own": "yes"}
STEPS = ".?*!"
CONDITIONS = {
    "s": "success()",
    "f": "failure()",
    "c": "cancelled()",
    "a": "always()",
    "t": "true",
    "n": "false",
    "e": "int(branch) > 0",  # cannot be evaluated where the run has no branch
    "E": "always() && int(branch) > 0",
}
_STEP = re.compile(f"([{re.escape(STEPS)}])([{''.join(CONDITIONS)}]?)")
_JOB = re.compile(r"(?P<steps>[^\[\]]*)(?:\[(?P<more>[^\[\]]*)\])?")


@dataclass(frozen=True, slots=True)
class StepShape:
    """A step. `when`: a letter of `CONDITIONS`, or empty. `source`: it clones the source of its job."""

    kind: str = "."
    when: str = ""
    source: bool = False

    @property
    def tolerated(self) -> bool:
        return self.kind in "?!"

    @property
    def own(self) -> bool:
        return self.kind in "*!"


@dataclass(frozen=True, slots=True)
class JobShape:
    """A job, with the clone of its source as its first step."""

    name: str
    steps: tuple[StepShape, ...]
    needs: tuple[str, ...] = ()
    when: str = ""
    retry: RetrySpec | None = None
    allow: bool = False
    gate: bool = False
    key: str = ""
    most: int = 1
    newest: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True)
class StageShape:
    """A stage. `gate`: somebody has to approve before it."""

    jobs: tuple[JobShape, ...]
    gate: bool = False


def parse(text: str) -> tuple[StageShape, ...]:
    """Read the notation."""
    names = iter(ascii_lowercase)
    stages = []
    for part in text.split("|"):
        gate = part.strip().startswith("&")
        words = part.strip().removeprefix("&").split()
        stages.append(StageShape(tuple(_job(next(names), word) for word in words), gate))
    return tuple(stages)


def step_of(text: str) -> StepShape:
    """Read one step."""
    [(kind, when)] = _STEP.findall(text)
    return StepShape(kind, when)


def _job(name: str, word: str) -> JobShape:
    found = _JOB.fullmatch(word)
    assert found, f"{word!r} is no job"
    steps = [StepShape(kind, when) for kind, when in _STEP.findall(found["steps"])]
    assert "".join(step.kind + step.when for step in steps) == found["steps"], f"{found['steps']!r} are no steps"
    more = dict(option.partition("=")[::2] for option in (found["more"] or "").split(";") if option)
    source = more.pop("source", "")
    retry = _retry(more)
    job = JobShape(
        name,
        (StepShape(source=True), *steps) if source else tuple(steps),
        tuple(more.pop("needs", "").split(",")) if "needs" in more else (),
        more.pop("when", ""),
        retry,
        more.pop("allow", None) is not None,
        more.pop("gate", None) is not None,
        more.pop("key", ""),
        int(more.pop("most", "1")),
        more.pop("newest", None) is not None,
        source,
    )
    assert not more, f"{sorted(more)} are no options"
    return job


def _retry(more: dict[str, str]) -> RetrySpec | None:
    attempts, delay, on = more.pop("retry", ""), more.pop("delay", "0"), more.pop("on", "")
    return RetrySpec(int(attempts), int(delay), tuple(on.split(",")) if on else ()) if attempts else None


def wants(**labels: str) -> Selector:
    """A selector of agents that have all these labels."""
    return Selector(tuple(Term(key, Operator.IN, (value,)) for key, value in labels.items()))


def shape(
    text: str, selectors: Mapping[str, Selector] | None = None, timeouts: Mapping[str, int] | None = None
) -> PipelineSpec:
    """Build a definition. `selectors` are by job, `timeouts` (ms) by job or step."""
    stages = []
    for index, stage in enumerate(parse(text)):
        jobs = tuple(_spec(job, selectors or {}, timeouts or {}) for job in stage.jobs)
        stages.append(StageSpec(f"stage-{index}", jobs, ApprovalSpec() if stage.gate else None))
    return PipelineSpec(tuple(stages))


def _spec(job: JobShape, selectors: Mapping[str, Selector], timeouts: Mapping[str, int]) -> JobSpec:
    steps = [
        StepSpec(
            f"{job.name}{number}",
            uses="shell",
            args={"script": f"echo {job.name}{number}"},
            continue_on_error=step.tolerated,
            selector=wants(**OWN) if step.own else None,
            timeout_ms=timeouts.get(f"{job.name}{number}"),
            when=CONDITIONS.get(step.when, ""),
        )
        for number, step in enumerate(job.steps, 1)
        if not step.source
    ]
    return JobSpec(
        job.name,
        tuple(steps),
        timeout_ms=timeouts.get(job.name),
        selector=selectors.get(job.name),
        depends_on=job.needs,
        when=CONDITIONS.get(job.when, ""),
        retry=job.retry,
        allow_failure=job.allow,
        approval=ApprovalSpec() if job.gate else None,
        concurrency=job.key,
        concurrency_limit=job.most,
        cancel_in_progress=job.newest,
        source=GitSource(job.source) if job.source else None,
    )
