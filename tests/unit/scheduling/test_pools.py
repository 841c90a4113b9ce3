"""Pools: as each selector says, shared by labels that no selector tells apart, and never looked at twice."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from arcentra_server.domain.labels import LabelSet, in_force
from arcentra_server.domain.selectors import Operator, Selector, Term
from arcentra_server.scheduling import pools as module
from arcentra_server.scheduling.pools import Pools


def _wants(name: str, value: str) -> Selector:
    return Selector((Term(name, Operator.IN, (value,)),))


@dataclass(frozen=True)
class Counted(Selector):
    """A selector that counts how often it is asked."""

    asked: list[Mapping[str, str]] = field(default_factory=list)

    def matches(self, labels: Mapping[str, str]) -> bool:
        self.asked.append(labels)
        return super().matches(labels)


def test_pool_is_what_each_selector_says_in_whatever_order_all_become_known() -> None:
    source = random.Random(1)  # noqa: S311 - a fixed seed
    for _ in range(300):
        selectors = {number: _wants(source.choice("abc"), source.choice("12")) for number in range(source.randrange(8))}
        sets = [in_force({name: source.choice("12") for name in source.sample("abcd", 2)}, {}) for _ in range(4)]
        pools = Pools()
        for number, selector in selectors.items():
            if source.random() < 0.5:
                pools.of(source.choice(sets))
            pools.learn({number: selector})
        for labels in sets:
            assert pools.of(labels).selectors == {one for one, selector in selectors.items() if labels.admit(selector)}


def test_labels_that_no_selector_tells_apart_are_of_one_pool() -> None:
    pools = Pools({1: _wants("os", "linux")})
    one, two, other = (
        in_force({"os": os, "host": host}, {}) for os, host in (("linux", "a"), ("linux", "b"), ("bsd", "c"))
    )
    assert pools.of(one) is pools.of(two)
    assert pools.of(one) is not pools.of(other)
    pools.learn({2: _wants("os", "bsd")})
    assert pools.of(one) is pools.of(two)
    pools.learn({3: _wants("host", "a")})
    assert pools.of(one) is not pools.of(two)
    assert pools.of(two) is pools.of(in_force({"os": "linux"}, {}))


def test_each_pair_of_a_selector_and_a_set_of_labels_is_looked_at_once() -> None:
    first, later = Counted(), Counted()
    sets = [in_force({"host": str(number)}, {}) for number in range(5)]
    pools = Pools({1: first})
    for _ in range(3):
        for labels in sets:
            pools.of(labels)
    pools.learn({1: first, 2: later})
    for labels in sets:
        pools.of(labels)
    assert (len(first.asked), len(later.asked)) == (5, 5)


def test_no_more_label_sets_are_kept_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LABEL_SETS", 3)
    asked = Counted()
    pools = Pools({1: asked})
    sets = [LabelSet({"host": str(number)}) for number in range(4)]
    for labels in (*sets[:3], *sets[:3], sets[3], sets[0]):
        assert pools.of(labels).selectors == {1}
    assert [labels["host"] for labels in asked.asked] == ["0", "1", "2", "3", "0"]
