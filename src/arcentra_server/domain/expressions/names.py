"""What expressions may name, and what they are evaluated over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from arcentra_server.domain.expressions.errors import Problem, listed, quoted, suggestion
from arcentra_server.domain.expressions.references import Reference

RUN_FIELDS = ("id", "pipeline_id", "pipeline", "namespace", "trigger", "triggered_by")
JOB_FIELDS = ("id", "name", "definition_name", "stage", "attempt")
STEP_FIELDS = ("name",)
END_FIELDS = ("result", "outputs")
RESULTS = ("success", "partial", "failed", "timeout", "cancelled", "skipped")
RUN_ENV = ("ARCENTRA_BRANCH", "ARCENTRA_COMMIT", "ARCENTRA_NAMESPACE")
"""Environment variables that every step of a run has, beside its variables."""

STATUS_FUNCTIONS = ("success", "failure", "always", "cancelled")


class Outcome(StrEnum):
    """How things stand before a place. SKIPPED: nothing failed, but what it needs did not run."""

    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Names:
    """What the expressions of one place may name, known when a definition is saved.

    Args:
        variables: Variables of the pipeline and its triggers.
        env: Environment variables in force; None where `env` cannot be used, in values of `env` itself.
        needs: The jobs that the job depends on, with the outputs that they declare.
        steps: Earlier steps of the job.
        matrix: Axes of the matrix of the job.
        secrets: Whether secrets can be used here.
        status_functions: Whether `success()` and its like can be used, which is in `when`.
        in_step: Whether there is a step, so that `step` can be used.
        hidden_env: Environment variables that there are, but that expressions of this place do not see, and why.
    """

    variables: frozenset[str]
    env: frozenset[str] | None
    needs: Mapping[str, frozenset[str]]
    steps: frozenset[str]
    matrix: frozenset[str]
    secrets: bool = True
    status_functions: bool = False
    in_step: bool = True
    hidden_env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Context:
    """What expressions are evaluated over.

    Args:
        variables: Those of the run.
        env: Environment variables in force.
        branch: Of the run.
        commit: Of the run, as far as it is known.
        run: `RUN_FIELDS`.
        job: `JOB_FIELDS`, all of them texts.
        step: `STEP_FIELDS`.
        needs: Of each job that the job depends on its `result` and `outputs`.
        steps: Of each earlier step its `result` and `outputs`.
        matrix: The values of the cell.
        event: What started the run; JSON.
        outcome: How things stand before this place.
    """

    variables: Mapping[str, str]
    env: Mapping[str, str]
    branch: str
    commit: str
    run: Mapping[str, str]
    job: Mapping[str, str]
    step: Mapping[str, str]
    needs: Mapping[str, Mapping[str, Any]]
    steps: Mapping[str, Mapping[str, Any]]
    matrix: Mapping[str, Any]
    event: Mapping[str, Any]
    outcome: Outcome


def unknown_names(references: Collection[Reference], names: Names) -> Iterator[Problem]:
    """Yield a problem for everything that expressions of this place cannot name."""
    for reference in references:
        check = _CHECKS.get(reference.root)
        problem = check(reference, names) if check is not None else None
        if problem is not None:
            yield problem


def _check_variables(reference: Reference, names: Names) -> Problem | None:
    return _one_of(reference, names.variables, "there is no variable {}")


def _check_env(reference: Reference, names: Names) -> Problem | None:
    if names.env is None:
        return Problem(reference.at, "values of env cannot use env; name what it is made of, such as variables.NAME")
    if reference.path and (reason := names.hidden_env.get(reference.path[0].name)):
        return Problem(reference.path[0].at, f"{quoted(reference.path[0].name)} {reason}")
    return _one_of(reference, names.env, "there is no environment variable {}")


def _check_matrix(reference: Reference, names: Names) -> Problem | None:
    if not names.matrix:
        return Problem(reference.at, "the job has no matrix")
    return _one_of(reference, names.matrix, "the matrix has no {}")


def _check_step(reference: Reference, names: Names) -> Problem | None:
    if not names.in_step:
        return Problem(reference.at, "there is no step here; step can be used in steps")
    return _one_of(reference, STEP_FIELDS, "step has no {}")


def _check_run(reference: Reference, _names: Names) -> Problem | None:
    return _one_of(reference, RUN_FIELDS, "run has no {}")


def _check_job(reference: Reference, _names: Names) -> Problem | None:
    return _one_of(reference, JOB_FIELDS, "job has no {}")


def _check_needs(reference: Reference, names: Names) -> Problem | None:
    problem = _one_of(reference, names.needs, "the job does not depend on a job {}") or _check_end(reference)
    if problem is not None or len(reference.path) < 3:
        return problem
    job, output = reference.path[0], reference.path[2]
    outputs = names.needs[job.name]
    if output.name in outputs:
        return None
    return Problem(
        output.at, f"job {quoted(job.name)} has no output {quoted(output.name)}{suggestion(output.name, outputs)}"
    )


def _check_steps(reference: Reference, names: Names) -> Problem | None:
    return _one_of(reference, names.steps, "there is no step {} before this place") or _check_end(reference)


def _check_end(reference: Reference) -> Problem | None:
    """Return the problem of what follows on the name of a job or a step."""
    path = reference.path
    if len(path) > 1 and path[1].name not in END_FIELDS:
        hint = f"write {reference.root}.{path[0].name}.outputs.{path[1].name} for an output, or .result"
        return Problem(path[1].at, f"{reference.root}.{path[0].name} has no {quoted(path[1].name)}; {hint}")
    deepest = 3 if len(path) > 1 and path[1].name == "outputs" else 2
    if len(path) > deepest:
        return Problem(path[deepest].at, f"a text has no field {quoted(path[deepest].name)}")
    return None


def _one_of(reference: Reference, known: Collection[str], message: str) -> Problem | None:
    if not reference.path or reference.path[0].name in known:
        return None
    step = reference.path[0]
    return Problem(step.at, message.format(quoted(step.name)) + suggestion(step.name, known))


_CHECKS: Mapping[str, Callable[[Reference, Names], Problem | None]] = {
    "variables": _check_variables,
    "env": _check_env,
    "matrix": _check_matrix,
    "step": _check_step,
    "run": _check_run,
    "job": _check_job,
    "needs": _check_needs,
    "steps": _check_steps,
}


def missing(owner: str, name: str, there_is: Collection[str]) -> str:
    """Return the message for a value that is not there at run time."""
    return f"{owner} has no {quoted(name)} ({f'it has {listed(there_is)}' if there_is else 'it is empty'})"
