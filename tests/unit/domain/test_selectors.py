"""Selectors beside a naive evaluator; their canonical form; their faults."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcentra_server.domain.selectors import ANY_AGENT, Operator, Selector, Term, check_selector
from tests.support.dice import SEEDS, dice

KEYS = ("os", "arch", "cpus")
VALUES = ("", "a", "b", "1", "2", "10", "-1.5", "1e3", "nan", "inf", "1e999", " 7 ", "0x10", "ten")
ALL_VALUES = [(), *((one,) for one in VALUES), *product(VALUES, VALUES)]
ALL_TERMS = [Term(key, operator, values) for key in KEYS for operator in Operator for values in ALL_VALUES]
ALL_LABELS = [
    {key: value for key, value in zip(KEYS, values, strict=True) if value is not None}
    for values in product((None, *VALUES), repeat=len(KEYS))
]
TERMS = st.sampled_from(ALL_TERMS)
LABELS = st.sampled_from(ALL_LABELS)
SELECTORS = st.lists(TERMS, max_size=3).map(lambda terms: Selector(tuple(terms)))


def as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def naive_term(term: Term, labels: Mapping[str, str]) -> bool:  # noqa: PLR0911 - one answer an operator
    present = term.key in labels
    if term.operator is Operator.EXISTS:
        return present
    if term.operator is Operator.NOT_EXISTS:
        return not present
    if term.operator is Operator.IN:
        return present and any(value == labels[term.key] for value in term.values)
    if term.operator is Operator.NOT_IN:
        return not (present and any(value == labels[term.key] for value in term.values))
    if not present or len(term.values) != 1:
        return False
    mine, bound = as_number(labels[term.key]), as_number(term.values[0])
    if mine is None or bound is None or not (math.isfinite(mine) and math.isfinite(bound)):
        return False
    return mine > bound if term.operator is Operator.GT else mine < bound


@pytest.mark.parametrize("operator", Operator)
def test_every_term_matches_as_a_naive_evaluator(operator: Operator) -> None:
    for values, label in product(ALL_VALUES, (None, *VALUES)):
        term = Term("key", operator, values)
        labels = {"other": "a"} if label is None else {"key": label}
        assert Selector((term,)).matches(labels) is naive_term(term, labels), (term, labels)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_matches_as_a_naive_evaluator(seed: int) -> None:
    """Twenty times five hundred cases: drawn one by one, ten thousand would take half a minute."""
    chance = dice(seed)
    for _ in range(500):
        terms = tuple(chance.choices(ALL_TERMS, k=chance.randint(0, 3)))
        labels = chance.choice(ALL_LABELS)
        assert Selector(terms).matches(labels) is all(naive_term(term, labels) for term in terms), (terms, labels)


@given(st.sampled_from(Operator), st.text(max_size=4), st.none() | st.text(max_size=4))
def test_answers_for_any_text(operator: Operator, value: str, label: str | None) -> None:
    term = Term("key", operator, (value,))
    labels = {} if label is None else {"key": label}
    assert term.matches(labels) is naive_term(term, labels)


@pytest.mark.parametrize(
    ("operator", "values", "label", "expected"),
    [
        (Operator.IN, ("a", "b"), "b", True),
        (Operator.IN, ("a", "b"), None, False),
        (Operator.IN, (), "a", False),
        (Operator.NOT_IN, ("a",), "b", True),
        (Operator.NOT_IN, ("a",), "a", False),
        (Operator.NOT_IN, ("a",), None, True),
        (Operator.NOT_IN, (), "a", True),
        (Operator.EXISTS, (), "", True),
        (Operator.EXISTS, (), None, False),
        (Operator.NOT_EXISTS, (), None, True),
        (Operator.NOT_EXISTS, (), "", False),
        (Operator.GT, ("4",), "8", True),
        (Operator.GT, ("9",), "10", True),
        (Operator.GT, ("4",), "4", False),
        (Operator.GT, ("4",), "many", False),
        (Operator.GT, ("4",), "inf", False),
        (Operator.GT, ("4",), None, False),
        (Operator.GT, (), "4", False),
        (Operator.LT, ("4",), "-2", True),
        (Operator.LT, ("4",), "4", False),
        (Operator.LT, ("few",), "1", False),
        (Operator.LT, ("4",), None, False),
        (Operator.LT, (), "4", False),
    ],
)
def test_operator(operator: Operator, values: tuple[str, ...], label: str | None, expected: bool) -> None:
    labels = {} if label is None else {"key": label}
    assert Term("key", operator, values).matches(labels) is expected


def test_no_terms_match_every_agent() -> None:
    assert ANY_AGENT.matches({})
    assert ANY_AGENT.matches({"os": "linux"})


def test_all_terms_must_hold() -> None:
    selector = Selector((Term("os", Operator.IN, ("linux",)), Term("gpu", Operator.EXISTS)))
    assert selector.matches({"os": "linux", "gpu": "1"})
    assert not selector.matches({"os": "linux"})
    assert not selector.matches({"gpu": "1"})


@given(st.data(), SELECTORS)
def test_form_does_not_depend_on_the_order_of_terms(data: st.DataObject, selector: Selector) -> None:
    repeated = [*selector.terms, *selector.terms[:1]]
    shuffled = Selector(tuple(data.draw(st.permutations(repeated))))
    assert shuffled.to_json() == selector.to_json()


@given(SELECTORS, LABELS)
def test_form_reads_back_as_the_same_selector(selector: Selector, labels: dict[str, str]) -> None:
    again = Selector.from_json(json.loads(json.dumps(selector.to_json())))
    assert again.to_json() == selector.to_json()
    # Not of a faulty one: two bounds that are alike are one in the form.
    assert check_selector(selector, "") or again.matches(labels) == selector.matches(labels)


@given(SELECTORS, SELECTORS)
def test_different_selectors_have_different_forms(one: Selector, other: Selector) -> None:
    assert (one.to_json() == other.to_json()) == (set(one.terms) == set(other.terms))


@pytest.mark.parametrize(
    ("term", "path"),
    [
        (Term("", Operator.EXISTS), "key"),
        (Term("os", Operator.IN), "values"),
        (Term("os", Operator.NOT_IN), "values"),
        (Term("os", Operator.EXISTS, ("a",)), "values"),
        (Term("os", Operator.NOT_EXISTS, ("a",)), "values"),
        (Term("os", Operator.GT), "values"),
        (Term("os", Operator.GT, ("1", "2")), "values"),
        (Term("os", Operator.LT, ("few",)), "values"),
        (Term("os", Operator.LT, ("inf",)), "values"),
    ],
)
def test_faults(term: Term, path: str) -> None:
    selector = Selector((Term("ok", Operator.EXISTS), term))
    assert [fault.path for fault in check_selector(selector, "job")] == [f"job.match_expressions[1].{path}"]
    assert [fault.path for fault in check_selector(selector, "")] == [f"match_expressions[1].{path}"]


@pytest.mark.parametrize(
    "term",
    [
        Term("os", Operator.IN, ("a", "b")),
        Term("os", Operator.NOT_IN, ("a",)),
        Term("os", Operator.EXISTS),
        Term("os", Operator.NOT_EXISTS),
        Term("os", Operator.GT, ("1.5",)),
        Term("os", Operator.LT, ("-3",)),
    ],
)
def test_no_faults(term: Term) -> None:
    assert check_selector(Selector((term,)), "") == []
