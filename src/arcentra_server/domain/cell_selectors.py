"""Selectors that name values of a matrix: `${{ matrix.os }}`, so that each cell runs on an agent of its own kind.

Nothing else can stand in a selector: which agents can serve a run is known when it starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from arcentra_server.domain.definition import Cell, JobSpec
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.matrix import check_matrix, job_cells, value_text
from arcentra_server.domain.selectors import Selector

_OPEN = "${{"
_REFERENCE = re.compile(r"\$\{\{\s*matrix\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_ONLY = "in a selector only `${{ matrix.NAME }}` can stand, alone"


def selector_of(selector: Selector, cell: Cell) -> Selector:
    """Return a selector with the values of a cell in place of the references to them."""
    if not any(_references(selector)):
        return selector
    terms = (replace(term, values=tuple(_filled(value, cell) for value in term.values)) for term in selector.terms)
    return Selector(tuple(terms))


def check_references(job: JobSpec, path: str) -> list[Fault]:
    """Return the faults of references in the selectors of a job and its steps: to nothing but values of every cell."""
    written = [(f"{path}.agent_selector", job.selector)]
    written += [(f"{path}.steps[{index}].agent_selector", step.selector) for index, step in enumerate(job.steps)]
    faults = []
    for where, selector in written:
        for value in dict.fromkeys(_references(selector)):
            found = _REFERENCE.fullmatch(value)
            if found is None:
                faults.append(Fault(where, f"{value[:80]!r}: {_ONLY}"))
            elif not all(found[1] in cell for cell in _cells(job)):
                faults.append(Fault(where, f"{value[:80]!r}: not every cell of the matrix has {found[1]!r}"))
    return faults


def _references(selector: Selector | None) -> Iterator[str]:
    for term in selector.terms if selector else ():
        yield from (value for value in term.values if _OPEN in value)


def _cells(job: JobSpec) -> list[Cell]:
    """Return the cells of a job, none when its matrix has faults of its own."""
    if job.matrix is not None and check_matrix(job.matrix, job.name, ""):
        return []
    return job_cells(job)


def _filled(value: str, cell: Cell) -> str:
    found = _REFERENCE.fullmatch(value)
    return value_text(cell[found[1]]) if found is not None and found[1] in cell else value
