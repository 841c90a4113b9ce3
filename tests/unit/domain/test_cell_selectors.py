"""Selectors that name values of a matrix."""

from __future__ import annotations

import pytest

from arcentra_server.domain.cell_selectors import check_references, selector_of
from arcentra_server.domain.definition import JobSpec, MatrixSpec, StepSpec
from arcentra_server.domain.selectors import Operator, Selector, Term


def wants(value: str) -> Selector:
    return Selector((Term("os", Operator.IN, (value,)),))


def job(value: str, matrix: MatrixSpec | None, *, of_step: bool = False) -> JobSpec:
    step = StepSpec("s", "shell", selector=wants(value) if of_step else None)
    return JobSpec("a", (step,), selector=None if of_step else wants(value), matrix=matrix)


SYSTEMS = MatrixSpec((("os", ("linux", "mac")), ("n", (1, 2))))
WITH_OWN_CELL = MatrixSpec((("os", ("linux",)), ("n", (1,))), include=({"os": "bsd"},))


def test_reference_takes_the_value_of_its_cell() -> None:
    assert selector_of(wants("${{ matrix.os }}"), {"os": "mac", "n": 2}) == wants("mac")
    assert selector_of(wants("${{matrix.n}}"), {"os": "mac", "n": 2}) == wants("2")
    assert selector_of(wants("plain"), {"os": "mac"}) == wants("plain")


@pytest.mark.parametrize("of_step", [False, True])
@pytest.mark.parametrize(
    ("value", "matrix", "wanted"),
    [
        ("${{ matrix.os }}", SYSTEMS, ""),
        ("${{ matrix.os }}", None, "'${{ matrix.os }}': not every cell of the matrix has 'os'"),
        ("${{ matrix.arch }}", SYSTEMS, "'${{ matrix.arch }}': not every cell of the matrix has 'arch'"),
        ("${{ matrix.n }}", WITH_OWN_CELL, "'${{ matrix.n }}': not every cell of the matrix has 'n'"),
        (
            "x-${{ matrix.os }}",
            SYSTEMS,
            "'x-${{ matrix.os }}': in a selector only `${{ matrix.NAME }}` can stand, alone",
        ),
        (
            "${{ variables.os }}",
            SYSTEMS,
            "'${{ variables.os }}': in a selector only `${{ matrix.NAME }}` can stand, alone",
        ),
    ],
)
def test_faults(value: str, matrix: MatrixSpec | None, wanted: str, *, of_step: bool) -> None:
    faults = check_references(job(value, matrix, of_step=of_step), "jobs[0]")
    where = "jobs[0].steps[0].agent_selector" if of_step else "jobs[0].agent_selector"
    assert [(fault.path, fault.message) for fault in faults] == ([(where, wanted)] if wanted else [])
