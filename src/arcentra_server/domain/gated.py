"""What stands behind a gate: it is what somebody approves, so it does not change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from uuid import UUID

from arcentra_server.domain.execution import JobState, StageState
from arcentra_server.domain.states import GateState

Needs = Mapping[UUID, Collection[UUID]]
"""For each job run those that it depends on."""


def is_behind_a_gate(job: JobState, jobs: Mapping[UUID, JobState], stages: Iterable[StageState], needs: Needs) -> bool:
    """Answer whether a gate of the run, decided or not, stands before a job: of a stage, or of a job it comes after."""
    if any(stage.gate is not GateState.NONE for stage in stages if stage.index <= job.stage_index):
        return True
    if any(other.gate is not GateState.NONE for other in jobs.values() if other.stage_index < job.stage_index):
        return True
    pending, seen = list(needs.get(job.id, ())), set[UUID]()
    while pending:
        needed = pending.pop()
        if needed in seen:
            continue
        seen.add(needed)
        if needed in jobs and jobs[needed].gate is not GateState.NONE:
            return True
        pending += needs.get(needed, ())
    return False
