"""Which selectors admit which agents, looked at once for each pair of a selector and a set of labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from arcentra_server.domain.labels import LabelSet
from arcentra_server.domain.selectors import Selector

MOST_LABEL_SETS = 10_000
"""How many sets of labels are remembered; one more, and all are looked at again."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Agents that the same selectors admit, by the ids of these. There is one of each: compared by identity."""

    selectors: frozenset[int]


class Pools:
    """The selectors that are known, and the pool of each set of labels.

    Labels that no selector asks for tell no pools apart, so there are few, however many agents there are.
    """

    def __init__(self, selectors: Mapping[int, Selector] | None = None) -> None:
        self._selectors: dict[int, Selector] = {}
        self._of_labels: dict[LabelSet, Pool] = {}
        self._pools: dict[frozenset[int], Pool] = {}
        self.learn(selectors or {})

    def learn(self, selectors: Mapping[int, Selector]) -> None:
        """Add selectors. They never change: those that are known already are left alone."""
        new = {identity: selector for identity, selector in selectors.items() if identity not in self._selectors}
        if not new:
            return
        self._selectors.update(new)
        self._pools = {}
        grown: dict[tuple[Pool, frozenset[int]], Pool] = {}
        for labels, pool in self._of_labels.items():
            added = _admitted(labels, new)
            if (pool, added) not in grown:
                grown[pool, added] = self._pool(pool.selectors | added)
            self._of_labels[labels] = grown[pool, added]

    def selector(self, selector_id: int) -> Selector | None:
        """Return a selector, None when it is not known."""
        return self._selectors.get(selector_id)

    def of(self, labels: LabelSet) -> Pool:
        """Return the pool of the agents that have these labels."""
        pool = self._of_labels.get(labels)
        if pool is None:
            if len(self._of_labels) >= MOST_LABEL_SETS:
                self._of_labels, self._pools = {}, {}
            pool = self._of_labels[labels] = self._pool(_admitted(labels, self._selectors))
        return pool

    def _pool(self, selectors: frozenset[int]) -> Pool:
        return self._pools.setdefault(selectors, Pool(selectors))


def _admitted(labels: LabelSet, selectors: Mapping[int, Selector]) -> frozenset[int]:
    return frozenset(identity for identity, selector in selectors.items() if labels.admit(selector))
