"""Which clones of a run take the branch and the commit of its trigger: those of the repository that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from arcentra_server.domain.definition import Cell, GitSource, JobSpec, PipelineSpec
from arcentra_server.domain.expressions import Context, ExpressionError, Meter, is_template, rendered, templates_of
from arcentra_server.domain.matrix import cell_name, job_cells
from arcentra_server.domain.repositories import Repository, asked_addresses


def asked_sources(spec: PipelineSpec, context: Context, repository: Repository) -> frozenset[int]:
    """Return the places, among all job runs, of those whose source takes what the trigger asks for.

    Args:
        spec: The definition.
        context: What is known as the run starts. Addresses that take more are compared as they are written.
        repository: That of the event, see `asked_addresses`.
    """
    addresses = dict(_addresses(spec, context))
    asked = asked_addresses(list(addresses.values()), repository)
    return frozenset(place for place, address in addresses.items() if address in asked)


def _addresses(spec: PipelineSpec, context: Context) -> Iterator[tuple[int, str]]:
    meter = Meter()
    jobs = ((stage.name, job, cell) for stage in spec.stages for job in stage.jobs for cell in job_cells(job))
    for place, (stage, job, cell) in enumerate(jobs):
        if job.source is not None:
            yield place, _address(job.source, job, cell, stage, context, meter)


def _address(source: GitSource, job: JobSpec, cell: Cell, stage: str, context: Context, meter: Meter) -> str:
    templates = templates_of(job.env, "git", {"repo": source.repo}, "") if is_template(source.repo) else None
    if templates is None:
        return source.repo
    plain = {name: text for name, text in job.env.items() if not is_template(text)}
    known = {"name": cell_name(job.name, cell), "definition_name": job.name, "stage": stage, "attempt": "1"}
    here = replace(context, env={**context.env, **plain}, job=known, matrix=cell)
    try:
        return str((rendered(templates, here, meter).args or {})["repo"])
    except ExpressionError:
        return source.repo
