"""The cells of a matrix: for which values a job runs, and what its runs are called.

Values are compared as texts: `3`, `"3"` and `3.0` written as `3` are one value, so that no two cells share a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod

from arcentra_server.domain.definition import Cell, JobSpec, MatrixSpec
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.field_checks import check_text

MOST_CELLS = 256
LARGEST_PRODUCT = 4_096
LONGEST_VALUE = 128
LONGEST_NAME = 255
AXIS = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
RESERVED_AXES = ("include", "exclude")

Value = str | int | float | bool


def cells(matrix: MatrixSpec) -> list[Cell]:
    """Return the cells in their order: the first axis is the slowest, cells of their own come last.

    An entry of `include` adds its values to every cell of the axes that it agrees with, or becomes a cell. It never
    changes a value of an axis, but what an earlier entry added.
    """
    axes = [name for name, _ in matrix.axes]
    combined = [cell for cell in _combinations(matrix) if not any(_agrees(cell, entry) for entry in matrix.exclude)]
    grown: list[dict[str, Value]] = [dict(cell) for cell in combined]
    own: list[dict[str, Value]] = []
    for entry in matrix.include:
        bound = {key: value for key, value in entry.items() if key in axes}
        hits = [index for index, cell in enumerate(combined) if _agrees(cell, bound)]
        for index in hits:
            grown[index].update((key, value) for key, value in entry.items() if key not in axes)
        if not hits:
            own.append(dict(entry))
    return [_ordered(cell, axes) for cell in (*grown, *own)]


def cell_name(job_name: str, cell: Cell) -> str:
    """Return the name of the job run of a cell: `test (linux, 3.12)`."""
    return f"{job_name} ({', '.join(value_text(value) for value in cell.values())})" if cell else job_name


def job_cells(job: JobSpec) -> list[Cell]:
    """Return the cells of a job: of one without a matrix a single empty one."""
    return cells(job.matrix) if job.matrix is not None else [{}]


def value_text(value: Value) -> str:
    """Return a value as it is shown and compared."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def check_matrix(matrix: MatrixSpec, job_name: str, path: str) -> list[Fault]:
    """Return every fault of a matrix."""
    faults = []
    if not matrix.axes and not matrix.include:
        faults.append(Fault(path, "needs an axis, or an entry of include"))
    for name, values in matrix.axes:
        faults += _check_axis(name, values, f"{path}.{name[:80]}")
    axes = dict(matrix.axes)
    if len(axes) < len(matrix.axes):
        faults.append(Fault(path, "has two axes of one name"))
    size = prod(len(values) for _, values in matrix.axes)
    for kind, entries in (("include", matrix.include), ("exclude", matrix.exclude)):
        if len(entries) > MOST_CELLS:
            faults.append(Fault(f"{path}.{kind}", f"{len(entries)} entries, more than {MOST_CELLS}"))
        faults += [
            Fault(f"{path}.{kind}[{index}]", "names no value") for index, entry in enumerate(entries) if not entry
        ]
    for index, entry in enumerate(matrix.include[:MOST_CELLS]):
        faults += _check_entry(entry, f"{path}.include[{index}]")
    if size > LARGEST_PRODUCT:
        faults.append(Fault(path, f"has {size} combinations, more than {LARGEST_PRODUCT} before any is left out"))
    if faults:
        return faults
    return _check_exclude(matrix, path) or _check_cells(matrix, job_name, path)


def _combinations(matrix: MatrixSpec) -> Iterator[Cell]:
    if matrix.axes:
        names = [name for name, _ in matrix.axes]
        for values in product(*(values for _, values in matrix.axes)):
            yield dict(zip(names, values, strict=True))


def _agrees(cell: Cell, entry: Cell) -> bool:
    return all(key in cell and value_text(cell[key]) == value_text(value) for key, value in entry.items())


def _ordered(cell: Mapping[str, Value], axes: Sequence[str]) -> Cell:
    further = sorted(key for key in cell if key not in axes)
    return {key: cell[key] for key in (*axes, *further) if key in cell}


def _check_axis(name: str, values: Sequence[Value], path: str) -> list[Fault]:
    faults = []
    if not AXIS.fullmatch(name) or name in RESERVED_AXES:
        faults.append(Fault(path, f"{name[:80]!r} is not the name of an axis: 1 to 64 letters, digits and _"))
    if not values:
        faults.append(Fault(path, "needs at least one value"))
    if len(values) > MOST_CELLS:
        return [*faults, Fault(path, f"{len(values)} values, more than {MOST_CELLS}")]
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        text = value_text(value)
        found = check_text(text, f"{path}[{index}]", longest=LONGEST_VALUE)
        if not found and text in first:
            found = [Fault(f"{path}[{index}]", f"{text!r} is given twice, first in {path}[{first[text]}]")]
        first.setdefault(text, index)
        faults += found
    return faults


def _check_entry(entry: Cell, path: str) -> list[Fault]:
    faults = []
    for key, value in entry.items():
        if not AXIS.fullmatch(key) or key in RESERVED_AXES:
            faults.append(Fault(path, f"{key[:80]!r} is not a name: 1 to 64 letters, digits and _"))
        faults += check_text(value_text(value), f"{path}.{key[:80]}", longest=LONGEST_VALUE)
    return faults


def _check_exclude(matrix: MatrixSpec, path: str) -> list[Fault]:
    faults = []
    axes = {name: [value_text(value) for value in values] for name, values in matrix.axes}
    for index, entry in enumerate(matrix.exclude):
        for key, value in entry.items():
            where = f"{path}.exclude[{index}].{key[:80]}"
            if key not in axes:
                faults.append(Fault(where, f"there is no axis {key[:80]!r}"))
            elif value_text(value) not in axes[key]:
                faults.append(Fault(where, f"the axis has no value {value_text(value)[:80]!r}"))
    return faults


def _check_cells(matrix: MatrixSpec, job_name: str, path: str) -> list[Fault]:
    found = cells(matrix)
    if not found:
        return [Fault(path, "leaves no cell: all are excluded")]
    if len(found) > MOST_CELLS:
        return [Fault(path, f"makes {len(found)} cells, more than {MOST_CELLS}")]
    names: set[str] = set()
    for cell in found:
        name = cell_name(job_name, cell)
        if len(name) > LONGEST_NAME:
            return [Fault(path, f"the name of a cell has {len(name)} characters, more than {LONGEST_NAME}")]
        if name in names:
            return [Fault(path, f"makes two cells with the name {name[:160]!r}")]
        names.add(name)
    return []
