"""Single fields of requests: ids, free text, time limits; and the faults that are found while several are read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from arcentra_server.domain.durations import parse_duration
from arcentra_server.domain.errors import Fault, ValidationError
from arcentra_server.domain.ids import parse_id
from arcentra_server.domain.selectors import Operator, Term
from arcentra_server.rpc.context import existing_id

HOLDS_NUL = "holds a NUL character"


class Findings:
    """The faults found so far. Its readers note a fault and answer something harmless, so that reading goes on."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def add(self, path: str, message: str) -> None:
        self.faults.append(Fault(path, message))

    def text(self, text: str, path: str) -> str:
        if "\0" in text:
            self.add(path, HOLDS_NUL)
        return text

    def duration(self, text: str, path: str) -> int | None:
        """Return the milliseconds of a time limit, None for an empty one."""
        if not text:
            return None
        try:
            return parse_duration(text)
        except ValueError as error:
            self.add(path, str(error))
            return None

    def term(self, key: str, operator: str, values: Sequence[str], path: str) -> Term:
        """Return the condition of a selector; `path` is that of the expression."""
        try:
            return Term(key, Operator(operator), tuple(values))
        except ValueError:
            self.add(f"{path}.operator", f"{operator[:64]!r} is not an operator; one of {', '.join(Operator)}")
            return Term(key, Operator.EXISTS)

    def raise_any(self, checked: list[Fault]) -> None:
        """Raise if anything was found, together with what was `checked` beyond it.

        Raises:
            ValidationError: there are faults; at the path of one that was found, no other is named.
        """
        if self.faults:
            found = {fault.path for fault in self.faults}
            raise ValidationError([*self.faults, *(fault for fault in checked if fault.path not in found)])


def plain_text(text: str, path: str, *, longest: int | None = None) -> str:
    """Return a free text.

    Raises:
        ValidationError: it holds a NUL, which the database cannot store, or has more than `longest` characters.
    """
    if "\0" in text:
        raise ValidationError.at(path, HOLDS_NUL)
    if longest is not None and len(text) > longest:
        raise ValidationError.at(path, f"has {len(text)} characters, more than {longest}")
    return text


def required_id(text: str, path: str, what: str) -> UUID:
    """Return the id of an object that a request is about.

    Raises:
        ValidationError: it is empty.
        NotFound: it is not an id, so that nothing can have it.
    """
    if not text:
        raise ValidationError.at(path, "is required")
    return existing_id(text, what)


def filter_id(text: str, path: str) -> UUID | None:
    """Return the id that a filter asks for, None for an empty one: any.

    Raises:
        ValidationError: it is not an id.
    """
    identity = parse_id(text) if text else None
    if text and identity is None:
        raise ValidationError.at(path, f"{text[:64]!r} is not an id")
    return identity


def unix_seconds(moment: datetime | None) -> int:
    """Return a time as the contract has it, 0 for none."""
    return int(moment.timestamp()) if moment else 0


def milliseconds_between(start: datetime | None, end: datetime | None, now: datetime) -> int:
    """Return how long something took, or takes until now; 0 when it has not started."""
    return max(0, round(((end or now) - start).total_seconds() * 1000)) if start else 0
