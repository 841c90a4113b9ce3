from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_server.domain.definition import Cell, JobSpec, MatrixSpec
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.matrix import MOST_CELLS, cell_name, cells, check_matrix, job_cells


def matrix(include: list[Cell] | None = None, exclude: list[Cell] | None = None, **axes: list[Any]) -> MatrixSpec:
    return MatrixSpec(
        tuple((name, tuple(values)) for name, values in axes.items()), tuple(include or ()), tuple(exclude or ())
    )


def names(spec: MatrixSpec) -> list[str]:
    return [cell_name("j", cell) for cell in cells(spec)]


def test_axes_are_combined_the_last_one_fastest() -> None:
    assert names(matrix(os=["linux", "mac"], version=[3.11, 3.12])) == [
        "j (linux, 3.11)",
        "j (linux, 3.12)",
        "j (mac, 3.11)",
        "j (mac, 3.12)",
    ]


def test_excluded_cells_are_left_out() -> None:
    spec = matrix(os=["linux", "mac", "win"], v=[1, 2], exclude=[{"os": "mac", "v": 1}, {"os": "win"}])
    assert names(spec) == ["j (linux, 1)", "j (linux, 2)", "j (mac, 2)"]


def test_included_entries_are_merged_as_github_does() -> None:
    """The example of GitHub's documentation, "Expanding or adding matrix configurations"."""
    spec = matrix(
        fruit=["apple", "pear"],
        animal=["cat", "dog"],
        include=[
            {"color": "green"},
            {"color": "pink", "animal": "cat"},
            {"fruit": "apple", "shape": "circle"},
            {"fruit": "banana"},
            {"fruit": "banana", "animal": "cat"},
        ],
    )
    assert cells(spec) == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]


def test_what_is_excluded_can_be_included_again() -> None:
    assert names(matrix(os=["a", "b"], exclude=[{"os": "a"}], include=[{"os": "a", "x": True}])) == [
        "j (b)",
        "j (a, true)",
    ]


def test_without_axes_every_entry_is_a_cell() -> None:
    assert names(matrix(include=[{"b": 1, "a": 2}, {"c": "x"}])) == ["j (2, 1)", "j (x)"]


def test_the_order_in_which_an_entry_is_written_does_not_name_a_cell() -> None:
    one: Cell = {"z": 1, "os": "b", "a": 2}
    other: Cell = {"a": 2, "os": "b", "z": 1}
    assert (
        names(matrix(os=["a"], include=[one])) == names(matrix(os=["a"], include=[other])) == ["j (a)", "j (b, 2, 1)"]
    )


@pytest.mark.parametrize(("value", "other"), [(1, "1"), (True, "true"), (1.5, "1.5")])
def test_values_are_compared_as_texts(value: Any, other: Any) -> None:
    assert names(matrix(a=[value, "x"], exclude=[{"a": other}])) == ["j (x)"]
    assert names(matrix(a=[value], b=[1, 2], exclude=[{"a": True, "b": 1}]))[0] == (
        "j (true, 2)" if value is True else f"j ({value}, 1)"
    )


def test_a_job_without_a_matrix_has_one_cell_and_its_own_name() -> None:
    (cell,) = job_cells(JobSpec("j", ()))
    assert cell_name("j", cell) == "j"


_VALUES = st.sampled_from(["x", "y", 2, 3, True, 1.5])
_ENTRIES = st.lists(st.dictionaries(st.sampled_from("abcd"), _VALUES, min_size=1, max_size=3), max_size=4)
_AXES = st.dictionaries(st.sampled_from("abc"), st.lists(_VALUES, min_size=1, max_size=3, unique_by=str), max_size=3)


def by_the_rule(axes: dict[str, list[Any]], include: list[Cell], exclude: list[Cell]) -> list[dict[str, Any]]:
    """As GitHub puts it: an entry goes to each combination of which it would overwrite no original value."""
    originals: list[dict[str, Any]] = [{}] if axes else []
    for name, values in axes.items():
        originals = [{**known, name: value} for known in originals for value in values]
    originals = [cell for cell in originals if not any(entry.items() <= cell.items() for entry in exclude)]
    results = [(cell, dict(cell)) for cell in originals]
    alone = []
    for entry in include:
        fits = [result for cell, result in results if {**cell, **entry}.items() >= cell.items()]
        for result in fits:
            result.update(entry)
        alone += [] if fits else [dict(entry)]
    return [result for _, result in results] + alone


@given(_AXES, _ENTRIES, _ENTRIES)
def test_cells_are_those_of_a_second_evaluation(
    axes: dict[str, list[Any]], include: list[Cell], exclude: list[Cell]
) -> None:
    assert cells(matrix(include, exclude, **axes)) == by_the_rule(axes, include, exclude)


FAULTS: list[tuple[MatrixSpec, list[tuple[str, str]]]] = [
    (matrix(), [("", "needs an axis, or an entry of include")]),
    (matrix(a=[]), [(".a", "needs at least one value")]),
    (matrix(a=[1, "1"]), [(".a[1]", "'1' is given twice, first in m.a[0]")]),
    (matrix(a=["x" * 129]), [(".a[0]", "has 129 characters, more than 128")]),
    (matrix(a=["x\n"]), [(".a[0]", "'x\\n' holds a character that cannot be printed")]),
    (matrix(a=list(range(257))), [(".a", "257 values, more than 256")]),
    (MatrixSpec((("a", (1,)), ("a", (2,)))), [("", "has two axes of one name")]),
    (matrix(include=[{}]), [(".include[0]", "names no value")]),
    (matrix(a=[1], exclude=[{"a": 2}]), [(".exclude[0].a", "the axis has no value '2'")]),
    (matrix(a=[1], exclude=[{"b": 2}]), [(".exclude[0].b", "there is no axis 'b'")]),
    (matrix(a=[1], exclude=[{"a": 1}]), [("", "leaves no cell: all are excluded")]),
    (matrix(include=[{"a": 1}, {"b": "1"}]), [("", "makes two cells with the name 'j (1)'")]),
    (matrix(a=list(range(17)), b=list(range(16))), [("", "makes 272 cells, more than 256")]),
    (
        matrix(**{key: [*range(9)] for key in "abcdefgh"}),
        [("", f"has {9**8} combinations, more than 4096 before any is left out")],
    ),
    (matrix(a=["x" * 128], b=["y" * 128]), [("", "the name of a cell has 262 characters, more than 255")]),
    (matrix(include=[{"a": n} for n in range(257)]), [(".include", "257 entries, more than 256")]),
]


@pytest.mark.parametrize(("spec", "expected"), FAULTS)
def test_faults_are_named(spec: MatrixSpec, expected: list[tuple[str, str]]) -> None:
    assert check_matrix(spec, "j", "m") == [Fault(f"m{path}", message) for path, message in expected]


def test_the_most_cells_are_no_fault() -> None:
    spec = matrix(a=list(range(16)), b=list(range(16)))
    assert check_matrix(spec, "j", "m") == []
    assert len(cells(spec)) == MOST_CELLS


@pytest.mark.parametrize("name", ["include", "1a", "a-b", "", "x" * 65])
def test_names_of_axes_are_checked(name: str) -> None:
    (fault,) = check_matrix(MatrixSpec(((name, (1,)),)), "j", "m")
    assert fault.message == f"{name!r} is not the name of an axis: 1 to 64 letters, digits and _"
