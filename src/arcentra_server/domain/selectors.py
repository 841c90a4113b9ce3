"""Label selectors: which agents can take a step run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from arcentra_server.domain.errors import Fault


class Operator(StrEnum):
    """How a label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    NOT_EXISTS = "NotExists"
    GT = "Gt"
    LT = "Lt"


_ASKING = frozenset({Operator.IN, Operator.EXISTS, Operator.GT, Operator.LT})


@dataclass(frozen=True, slots=True, order=True)
class Term:
    """One condition on one label. `Gt` and `Lt` compare numbers and fail on a label that is not one."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case Operator.EXISTS:
                return value is not None
            case Operator.NOT_EXISTS:
                return value is None
            case Operator.IN:
                return value is not None and value in self.values
            case Operator.NOT_IN:
                # As in Kubernetes: a missing label is not one of the values.
                return value is None or value not in self.values
            case Operator.GT | Operator.LT:
                return len(self.values) == 1 and _compare(self.operator, value, self.values[0])

    def canonical(self) -> Term:
        """Return it with values in the one order and number that say the same; only lists of values have another."""
        listed = self.operator in (Operator.IN, Operator.NOT_IN)
        return Term(self.key, self.operator, tuple(sorted(set(self.values)))) if listed else self


@dataclass(frozen=True, slots=True)
class Selector:
    """All terms must hold. No terms: every agent."""

    terms: tuple[Term, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(term.matches(labels) for term in self.terms)

    @property
    def asks(self) -> frozenset[str]:
        """The labels that an agent must have for it to match: those of a condition which no missing label meets."""
        return frozenset(term.key for term in self.terms if term.operator in _ASKING)

    def to_json(self) -> list[list[Any]]:
        """Return the canonical form: equal selectors give equal forms, whatever the order they were written in."""
        canonical = {term.canonical() for term in self.terms}
        return [[term.key, str(term.operator), list(term.values)] for term in sorted(canonical)]

    @classmethod
    def from_json(cls, document: list[list[Any]]) -> Selector:
        return cls(tuple(Term(key, Operator(operator), tuple(values)) for key, operator, values in document))


ANY_AGENT = Selector()


def _compare(operator: Operator, value: str | None, bound: str) -> bool:
    number = _number(value)
    limit = _number(bound)
    if number is None or limit is None:
        return False
    return number > limit if operator is Operator.GT else number < limit


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def check_selector(selector: Selector, path: str) -> list[Fault]:
    """Return the faults of a selector whose operators are known: keys, numbers of values, bounds."""
    faults = []
    for index, term in enumerate(selector.terms):
        where = f"{path}.match_expressions[{index}]" if path else f"match_expressions[{index}]"
        if not term.key:
            faults.append(Fault(f"{where}.key", "a label name is needed"))
        match term.operator:
            case Operator.IN | Operator.NOT_IN:
                if not term.values:
                    faults.append(Fault(f"{where}.values", f"{term.operator} needs at least one value"))
            case Operator.EXISTS | Operator.NOT_EXISTS:
                if term.values:
                    faults.append(Fault(f"{where}.values", f"{term.operator} takes no values"))
            case Operator.GT | Operator.LT:
                if len(term.values) != 1 or _number(term.values[0]) is None:
                    faults.append(Fault(f"{where}.values", f"{term.operator} needs exactly one number"))
    return faults
