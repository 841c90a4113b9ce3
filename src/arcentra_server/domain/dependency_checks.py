"""What is a fault of `depends_on`: names that no job of the stage has, and circles."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

from arcentra_server.domain.definition import JobSpec
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.field_checks import check_distinct

MOST_CIRCLES = 10
"""Of so many circles each is named; a definition with more has its author busy for a while."""

MOST_COMPARED = 100
"""To find what was meant takes time, which a stage of more jobs, or with more faults, is not worth."""


def check_dependencies(
    jobs: Sequence[tuple[str, JobSpec]], stage_of: Mapping[str, str], stage_name: str
) -> list[Fault]:
    """Return the faults of the jobs of one stage, given with their paths. `stage_of` knows the jobs of all stages."""
    faults: list[Fault] = []
    names = {job.name for _, job in jobs}
    for path, job in jobs:
        if not job.depends_on:
            continue
        faults += check_distinct(job.depends_on, f"{path}.depends_on")
        for index, needed in enumerate(job.depends_on):
            where = f"{path}.depends_on[{index}]"
            if needed == job.name:
                faults.append(Fault(where, f"job {needed!r} cannot depend on itself"))
            elif needed not in names:
                near = names if len(names) <= MOST_COMPARED and len(faults) < MOST_COMPARED else ()
                faults.append(Fault(where, _not_here(needed, stage_of, stage_name, near)))
    return faults + _check_circles(jobs, names)


def _not_here(needed: str, stage_of: Mapping[str, str], stage_name: str, near: Collection[str]) -> str:
    if needed in stage_of:
        return f"job {needed!r} is in stage {stage_of[needed]!r}: stages follow on each other as they are written"
    close = get_close_matches(needed[:80], sorted(near), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"there is no job {needed[:80]!r} in stage {stage_name[:80]!r}{hint}"


def _check_circles(jobs: Sequence[tuple[str, JobSpec]], names: set[str]) -> list[Fault]:
    needs = {job.name: {name for name in job.depends_on if name in names and name != job.name} for _, job in jobs}
    faults: list[Fault] = []
    places = {job.name: (path, job) for path, job in jobs}
    while len(faults) < MOST_CIRCLES and (circular := _without_free(needs)):
        circle = _circle(circular)
        path, job = places[circle[0]]
        index = job.depends_on.index(circle[1])
        faults.append(Fault(f"{path}.depends_on[{index}]", f"jobs wait for each other: {' -> '.join(circle)}"))
        needs = {name: needed - set(circle) for name, needed in circular.items() if name not in circle}
    return faults


def _without_free(needs: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the jobs that can never start, with those among them that they need: none when there is no circle."""
    open_needs = {name: len(needed) for name, needed in needs.items()}
    dependants: dict[str, list[str]] = {name: [] for name in needs}
    for name, needed in needs.items():
        for other in needed:
            dependants[other].append(name)
    free = [name for name, count in open_needs.items() if count == 0]
    while free:
        name = free.pop()
        del open_needs[name]
        for dependant in dependants[name]:
            open_needs[dependant] -= 1
            if open_needs[dependant] == 0:
                free.append(dependant)
    return {name: {other for other in needs[name] if other in open_needs} for name in needs if name in open_needs}


def _circle(needs: Mapping[str, set[str]]) -> list[str]:
    """Return one circle, from a job back to itself, where every job needs another."""
    order = {name: index for index, name in enumerate(needs)}
    name = next(iter(needs))
    walked: dict[str, int] = {}
    way: list[str] = []
    while name not in walked:
        walked[name] = len(way)
        way.append(name)
        name = min(needs[name], key=order.__getitem__)
    circle = way[walked[name] :]
    first = circle.index(min(circle, key=order.__getitem__))
    circle = circle[first:] + circle[:first]
    return [*circle, circle[0]]
