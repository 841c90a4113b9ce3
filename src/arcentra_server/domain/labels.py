"""The labels of an agent: what it claims, what the server gives it, and what follows for who may use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from arcentra_server.domain.selectors import Selector

RESERVING = "!"
"""A label whose name begins so is in force without it, and reserves the agent for step runs that ask for it."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelSet:
    """The labels in force, and the names of those that reserve the agent. Compared by identity: share it."""

    values: Mapping[str, str]
    reserved: frozenset[str] = frozenset()

    def admit(self, selector: Selector) -> bool:
        """Answer whether an agent with these labels may take what the selector is of."""
        return self.reserved <= selector.asks and selector.matches(self.values)


def in_force(claimed: Mapping[str, str], given: Mapping[str, str]) -> LabelSet:
    """Return what is in force of the labels that an agent claims and those that the server gives it.

    A given label wins over a claimed one of its name, whichever of the two reserves the agent; in one of the two maps
    the reserving one wins.
    """
    values: dict[str, str] = {}
    reserved: set[str] = set()
    for labels in (claimed, given):
        for name in sorted(labels, key=lambda name: name.startswith(RESERVING)):
            bare = name.removeprefix(RESERVING)
            values[bare] = labels[name]
            (reserved.discard if bare == name else reserved.add)(bare)
    return LabelSet(values, frozenset(reserved))
