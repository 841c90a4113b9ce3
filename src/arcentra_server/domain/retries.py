"""Which jobs of a run go with a job that is retried."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from uuid import UUID

from arcentra_server.domain import rollup
from arcentra_server.domain.errors import InvalidTransition
from arcentra_server.domain.execution import JobState, Waiting
from arcentra_server.domain.ledger_turns import end_of
from arcentra_server.domain.states import GateState, RunStatus

Needs = Mapping[UUID, Collection[UUID]]
"""For each job run those that it depends on."""


def with_dependants(
    retried: Iterable[JobState], jobs: Sequence[JobState], needs: Needs, *, refused_stages: Collection[int]
) -> list[JobState]:
    """Return jobs to retry, in order, with those that were skipped because of them: in their stage, and in later ones.

    What was refused in a later stage goes with them too: its gate is asked again, as those before later stages are. So it
    does where the gate before their own stage was refused, as this is asked again for all that was skipped there.

    Args:
        retried: The jobs.
        jobs: All of the run.
        needs: What they depend on.
        refused_stages: The stages whose gate was refused.

    Raises:
        InvalidTransition: one of them would be skipped again, as it depends on a job that ended without its approval.
    """
    asked = list(retried)
    chosen = {job.id for job in asked}
    first = min((job.stage_index for job in asked), default=0)
    skipped = [job for job in jobs if job.status is RunStatus.SKIPPED]
    later = [*skipped, *(job for job in jobs if job.gate is GateState.REJECTED)]
    chosen |= {job.id for job in later if job.stage_index > first}
    if first in refused_stages:
        chosen |= {job.id for job in skipped if job.stage_index == first}
    while True:
        more = {job.id for job in skipped if job.id not in chosen and chosen.intersection(needs.get(job.id, ()))}
        if not more:
            break
        chosen |= more
    walls = {job.id for job in jobs if job.id not in chosen and job.status.terminal and end_of(job).walled}
    if any(walls.intersection(needs.get(job.id, ())) for job in asked):
        raise InvalidTransition("a job that it depends on ended without its approval: retry that one")
    return _in_order(job for job in jobs if job.id in chosen)


def to_retry(
    jobs: Sequence[JobState], needs: Needs, *, refused_stages: Collection[int], everything: bool
) -> list[JobState]:
    """Return the jobs of a run that has ended which run again when it is retried.

    Args:
        jobs: All of the run.
        needs: What they depend on.
        refused_stages: The stages whose gate was refused: nothing failed there, and all was skipped.
        everything: Whether also those that ended well run again.
    """
    if everything:
        return _in_order(jobs)
    failed = [job for job in jobs if rollup.blocks(job.status)]
    refused = [job for job in jobs if job.status is RunStatus.SKIPPED and job.stage_index in refused_stages]
    return with_dependants([*failed, *refused], jobs, needs, refused_stages=refused_stages)


def open_needs(retried: Iterable[JobState], jobs: Sequence[JobState], needs: Needs) -> dict[UUID, int]:
    """Return how many jobs have to end before a job has its turn, once some of a run are retried.

    It is told for each job that is retried, and for each that has not had its turn and waits for one of them now.

    Raises:
        InvalidTransition: a job that depends on one of them has had its turn and goes on.
    """
    chosen = {job.id for job in retried}
    for job in jobs:
        goes_on = job.id not in chosen and not job.status.terminal and not _has_not_had_its_turn(job)
        if goes_on and chosen.intersection(needs.get(job.id, ())):
            raise InvalidTransition("a job that depends on it goes on: retry when that has ended")
    unfinished = chosen | {job.id for job in jobs if not job.status.terminal}
    waiting = chosen | {job.id for job in jobs if _has_not_had_its_turn(job)}
    return {job_id: len(unfinished.intersection(needs.get(job_id, ()))) for job_id in waiting}


def _has_not_had_its_turn(job: JobState) -> bool:
    # One that waits at its own gate has ended its steps, though none of them may have run.
    waits = job.waits_for in (Waiting.STAGE, Waiting.APPROVAL, Waiting.NEEDS) and job.gate is not GateState.WAITING
    return job.status is RunStatus.PENDING and waits


def _in_order(jobs: Iterable[JobState]) -> list[JobState]:
    return sorted(jobs, key=lambda job: (job.stage_index, job.id))
