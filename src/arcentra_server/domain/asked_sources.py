"""Which clones of a run take the branch and the commit of its trigger: those of the repository that it is about."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from arcentra_server.domain.definition import Cell, GitSource, JobSpec
from arcentra_server.domain.errors import LimitExceeded
from arcentra_server.domain.expressions import (
    Context,
    ExpressionError,
    Meter,
    Templates,
    env_named,
    is_template,
    render,
    rendered,
    roots_in,
)
from arcentra_server.domain.matrix import cell_name
from arcentra_server.domain.repositories import Repository, asked_addresses

STEPS_A_JOB = 6_000
"""So many steps of evaluation the addresses of a run may take for each of its job runs, see `Meter`."""


@dataclass(frozen=True, slots=True)
class PlacedJob:
    """A job run to be: its id, its job, the cell of the matrix, and the name of the stage."""

    id: UUID
    spec: JobSpec
    cell: Cell
    stage: str


def asked_sources(jobs: Sequence[PlacedJob], context: Context, repository: Repository) -> frozenset[int]:
    """Return the places, among all job runs, of those whose source takes what the trigger asks for.

    Args:
        jobs: All job runs, in the order of the definition.
        context: What is known as the run starts. Addresses that take more are compared as they are written.
        repository: That of the event, see `asked_addresses`.

    Raises:
        LimitExceeded: an address, or all of them together, would take too much to evaluate.
    """
    known = _Addresses(context, STEPS_A_JOB * len(jobs))
    addresses = {place: known.of(job, job.spec.source) for place, job in enumerate(jobs) if job.spec.source is not None}
    asked = asked_addresses(list(addresses.values()), repository)
    return frozenset(place for place, address in addresses.items() if address in asked)


class _Addresses:
    """The addresses of the sources of a run. Each is evaluated once for all jobs in which nothing of it differs."""

    def __init__(self, context: Context, steps: int) -> None:
        self._context = context
        self._steps = steps
        self._known: dict[Hashable, str] = {}

    def of(self, job: PlacedJob, source: GitSource) -> str:
        """Return the address of a source, as it is written when it is not known before the job begins."""
        if not is_template(source.repo):
            return source.repo
        named = env_named(source.repo)
        env = {name: text for name, text in job.spec.env.items() if named is None or name in named}
        roots = roots_in([source.repo, *env.values()])
        here = {
            "id": str(job.id),
            "name": cell_name(job.spec.name, job.cell),
            "definition_name": job.spec.name,
            "stage": job.stage,
            "attempt": "1",
        }
        key = (
            source.repo,
            tuple(env.items()),
            tuple((name, type(value), value) for name, value in job.cell.items()) if "matrix" in roots else (),
            tuple(here.values()) if "job" in roots else (),
        )
        if key not in self._known:
            context = replace(self._context, job=here, matrix=job.cell)
            self._known[key] = self._evaluated(source.repo, env, context, job, is_any=named is None)
        return self._known[key]

    def _evaluated(self, repo: str, env: Mapping[str, str], context: Context, job: PlacedJob, *, is_any: bool) -> str:
        """Evaluate an address. `env`: of the job, what it names; `is_any`: all, as it does not say which."""
        meter = Meter()
        templates = {name: text for name, text in env.items() if is_template(text)}
        if is_any:
            templates = {name: text for name, text in templates.items() if _has_value(text, context, meter)}
        there = {name: text for name, text in context.env.items() if name not in env}
        plain = {name: text for name, text in env.items() if not is_template(text)}
        try:
            found = rendered(
                Templates(templates, {"repo": repo}, "", ()), replace(context, env={**there, **plain}), meter
            )
            address = str((found.args or {})["repo"])
        except ExpressionError as error:
            if meter.is_exhausted:
                raise LimitExceeded(f"job {job.spec.name!r}: the address of its source: {error}") from None
            address = repo
        self._steps -= meter.spent
        if self._steps < 0:
            raise LimitExceeded(
                f"the addresses of all sources of a run may together take {STEPS_A_JOB:,} steps of evaluation a job, "
                "and take more: write the addresses out, or calculate less in them"
            )
        return address


def _has_value(text: str, context: Context, meter: Meter) -> bool:
    """Answer whether a variable of the environment of a job is known before the job begins."""
    try:
        render(text, replace(context, env={}), meter)
    except ExpressionError:
        return False
    return True
