"""Labels in force, and agents that are reserved."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from arcentra_server.domain.labels import in_force
from arcentra_server.domain.selectors import ANY_AGENT, Operator, Selector, Term

NVIDIA = {"!gpu": "nvidia"}


@pytest.mark.parametrize(
    ("claimed", "given", "values", "reserved"),
    [
        ({}, {}, {}, set()),
        ({"os": "linux"}, {"pool": "a"}, {"os": "linux", "pool": "a"}, set()),
        ({"trust": "high"}, {"trust": "low"}, {"trust": "low"}, set()),
        (NVIDIA, {}, {"gpu": "nvidia"}, {"gpu"}),
        ({}, NVIDIA, {"gpu": "nvidia"}, {"gpu"}),
        # Whoever claims a label cannot have it over what the server says of the same name.
        ({"!trust": "high"}, {"trust": "low"}, {"trust": "low"}, set()),
        ({"trust": "high"}, {"!trust": "low"}, {"trust": "low"}, {"trust"}),
        # Both in one map: the one that reserves.
        ({"gpu": "amd", "!gpu": "nvidia"}, {}, {"gpu": "nvidia"}, {"gpu"}),
        ({"!gpu": "nvidia", "gpu": "amd"}, {}, {"gpu": "nvidia"}, {"gpu"}),
        ({"!a": "1"}, {"!b": "2"}, {"a": "1", "b": "2"}, {"a", "b"}),
    ],
)
def test_what_is_in_force(
    claimed: Mapping[str, str], given: Mapping[str, str], values: Mapping[str, str], reserved: set[str]
) -> None:
    labels = in_force(claimed, given)
    assert (dict(labels.values), set(labels.reserved)) == (values, reserved)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ((), False),
        ((Term("os", Operator.IN, ("linux",)),), False),
        ((Term("gpu", Operator.IN, ("nvidia", "amd")),), True),
        ((Term("gpu", Operator.IN, ("amd",)),), False),
        ((Term("gpu", Operator.IN, ()),), False),
        ((Term("gpu", Operator.EXISTS),), True),
        # These hold of an agent without the label too: nobody asked for it.
        ((Term("gpu", Operator.NOT_IN, ("amd",)),), False),
        ((Term("gpu", Operator.NOT_EXISTS),), False),
        ((Term("gpu", Operator.NOT_IN, ("amd",)), Term("gpu", Operator.EXISTS)), True),
        ((Term("gpu", Operator.GT, ("1",)),), False),
        ((Term("gpu", Operator.EXISTS), Term("os", Operator.IN, ("bsd",))), False),
    ],
)
def test_who_may_use_a_reserved_agent(terms: tuple[Term, ...], expected: bool) -> None:
    assert in_force({"os": "linux", **NVIDIA}, {}).admit(Selector(terms)) is expected


@pytest.mark.parametrize(("operator", "bound"), [(Operator.GT, "4"), (Operator.LT, "16")])
def test_numbers_ask_too(operator: Operator, bound: str) -> None:
    assert in_force({"!cores": "8"}, {}).admit(Selector((Term("cores", operator, (bound,)),)))
    assert not in_force({"!cores": "many"}, {}).admit(Selector((Term("cores", operator, (bound,)),)))


def test_each_label_that_reserves_has_to_be_asked_for() -> None:
    labels = in_force({"!a": "1", "!b": "2"}, {})
    assert not labels.admit(Selector((Term("a", Operator.EXISTS),)))
    assert labels.admit(Selector((Term("a", Operator.EXISTS), Term("b", Operator.IN, ("2",)))))


def test_without_reservation_all_agents_admit_whom_they_match() -> None:
    assert in_force({"gpu": "nvidia"}, {}).admit(ANY_AGENT)
