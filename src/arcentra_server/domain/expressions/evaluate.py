"""Evaluate a compiled expression over a context.

The library that checks expressions could evaluate them too, but not within bounds: it holds the interpreter's lock while
a `map` over 9,000 items takes 5 s (its cost grows with the square), compiles a pattern anew for each match, limits no
memory, and does not say where in an expression something failed. So its tree is walked here, each step is counted, and
an error has a place. A property test holds the results to those of the library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from arcentra_server.domain.expressions.complaints import not_applicable, type_name
from arcentra_server.domain.expressions.errors import quoted
from arcentra_server.domain.expressions.functions import OVERLOADS, Meter, Refused, TooCostly, equal
from arcentra_server.domain.expressions.names import Context, Outcome, missing
from arcentra_server.domain.expressions.program import Program
from arcentra_server.domain.expressions.syntax import Call, Const, Fold, Ident, ListOf, MapOf, Node, Select
from arcentra_server.domain.expressions.values import LONGEST_SEEN, Made, MadeMap, kind, seen

_STEPS_A_BYTE = 5
_NAMES_A_STEP = 4
_STEPS_A_MESSAGE = 10


class EvaluationError(Exception):
    """An expression has no value. `at`: where in the expression it failed. `||`, `&&` and macros may make up for it."""

    def __init__(self, at: int, message: str) -> None:
        self.at = at
        super().__init__(message)


class CostError(EvaluationError):
    """It costs more than an expression may; nothing makes up for that."""


def evaluate(program: Program, context: Context, meter: Meter) -> Any:
    """Return the value of an expression that has no problems.

    A value that is only named is seen as it is; what is calculated sees the first 4 KiB of each text. What comes out may
    hold the same list many times, and be far larger than what `meter` was charged with: see `results`.

    Raises:
        EvaluationError: it has none.
    """
    if program.tree is None:
        raise EvaluationError(program.problems[0].at, program.problems[0].message)
    if program.is_plain:
        return _Evaluation(context, None, meter).value(program.tree)
    try:
        # Not each time, but whenever the server does not remember it, it is compiled before it is evaluated.
        meter.step(_STEPS_A_BYTE * len(program.source))
    except TooCostly as error:
        raise CostError(0, str(error)) from None
    return _Evaluation(context, LONGEST_SEEN, meter).value(program.tree)


class _Evaluation:
    def __init__(self, context: Context, longest: int | None, meter: Meter) -> None:
        self._context = context
        self._longest = longest
        self._meter = meter
        self._bound: dict[str, Any] = {}

    def value(self, node: Node) -> Any:
        """Return the value of a part of the expression."""
        try:
            self._meter.step()
            return _EVALUATORS[type(node)](self, node)
        except TooCostly as error:
            raise CostError(node.at, str(error)) from None

    def const(self, node: Const) -> Any:
        return node.value

    def ident(self, node: Ident) -> Any:
        if node.name not in self._bound:
            return seen(getattr(self._context, node.name), self._longest)
        value = self._bound[node.name]
        if isinstance(value, EvaluationError):
            # It may be met again for each item, and would keep all the places where it was.
            raise value.with_traceback(None)
        return value

    def select(self, node: Select) -> Any:
        owner = self.value(node.operand)
        if not isinstance(owner, dict):
            raise EvaluationError(node.at, f"{_described(node.operand)} is {_a(owner)}, and has no {quoted(node.name)}")
        if node.test:
            return node.name in owner
        return self._item(node, node.operand, owner, node.name)

    def list_of(self, node: ListOf) -> Any:
        self._meter.make(len(node.items) * 8)
        return Made(self.value(item) for item in node.items)

    def map_of(self, node: MapOf) -> Any:
        self._meter.make(len(node.entries) * 64)
        result = MadeMap()
        for key, value in node.entries:
            name = self.value(key)
            if name in result:
                raise EvaluationError(key.at, f"{quoted(name)} stands twice in {{ }}")
            result[name] = self.value(value)
        return result

    def call(self, node: Call) -> Any:
        special = _SPECIAL.get(node.function)
        if special is not None:
            return special(self, node)
        args = [self.value(arg) for arg in node.args]
        return self._apply(node, args)

    def both(self, node: Call) -> Any:
        return self._either(node, deciding=False)

    def any(self, node: Call) -> Any:
        return self._either(node, deciding=True)

    def choice(self, node: Call) -> Any:
        condition, yes, no = node.args
        return self.value(yes if self._truth(condition) else no)

    def equals(self, node: Call) -> Any:
        one, other = (self.value(arg) for arg in node.args)
        return equal(self._meter, one, other)

    def differs(self, node: Call) -> Any:
        return not self.equals(node)

    def contained(self, node: Call) -> Any:
        item, owner = (self.value(arg) for arg in node.args)
        if isinstance(owner, dict) and isinstance(item, (str, int, float)):
            return isinstance(item, str) and item in owner
        if isinstance(owner, list):
            return any(equal(self._meter, item, self._inside(owner, one)) for one in owner)
        raise EvaluationError(node.at, not_applicable("@in", [kind(item), kind(owner)]))

    def index(self, node: Call) -> Any:
        owner_node, key_node = node.args
        owner, key = self.value(owner_node), self.value(key_node)
        if isinstance(owner, dict):
            if not isinstance(key, str):
                raise EvaluationError(key_node.at, f"{_described(owner_node)} has names that are texts, not {_a(key)}")
            return self._item(key_node, owner_node, owner, key)
        if not isinstance(owner, list) or isinstance(key, bool) or not isinstance(key, (int, float)):
            raise EvaluationError(node.at, not_applicable("_[_]", [kind(owner), kind(key)]))
        if (isinstance(key, float) and not key.is_integer()) or not 0 <= key < len(owner):
            raise EvaluationError(key_node.at, f"there is no item {key} in a list of {len(owner)}")
        return self._inside(owner, owner[int(key)])

    def not_strictly_false(self, node: Call) -> Any:
        """Answer whether a macro goes on: an error may still be made up for by a later item."""
        try:
            return self.value(node.args[0]) is not False
        except CostError:
            raise
        except EvaluationError:
            return True

    def fold(self, node: Fold) -> Any:
        source = self.value(node.source)
        if not isinstance(source, (list, dict)):
            raise EvaluationError(node.source.at, f"{_described(node.source)} is {_a(source)}, not a list or a map")
        self._bound[node.accumulator] = self.value(node.start)
        try:
            for item in source:
                self._bound[node.variable] = self._inside(source, item)
                if self.value(node.condition) is False:
                    break
                self._bound[node.accumulator] = self._step(node)
            return self.value(node.result)
        finally:
            # Macros do not stand in each other, so these are the only ones.
            self._bound.clear()

    def _step(self, node: Fold) -> Any:
        try:
            return self.value(node.step)
        except CostError:
            raise
        except EvaluationError as error:
            return error

    def add(self, node: Call) -> Any:
        one, other = node.args
        if isinstance(one, Ident) and one.name in self._bound and isinstance(other, ListOf):
            # `@result + [item]`, a step of map or filter: the list is the macro's own, and need not be copied.
            collected = self.value(one)
            if isinstance(collected, Made) and one.name.startswith("@"):
                collected += self.value(other)
                return collected
        return self._apply(node, [self.value(one), self.value(other)])

    def _apply(self, node: Call, args: list[Any]) -> Any:
        kinds = [kind(arg) for arg in args]
        overload = OVERLOADS.get((node.function, *kinds))
        if overload is None:
            raise EvaluationError(node.at, not_applicable(node.function, kinds))
        if node.function in _TAKE_ITEMS:
            args = [self._all_inside(arg) if isinstance(arg, list) else arg for arg in args]
        try:
            return overload(self._meter, *args)
        except Refused as error:
            raise EvaluationError(node.at, str(error)) from None
        except OverflowError:
            # JSON knows no largest number, so what comes from outside may have been beyond anything.
            raise EvaluationError(node.at, "a number is too large") from None

    def _either(self, node: Call, *, deciding: bool) -> bool:
        """Evaluate `||` or `&&`: one side that decides makes up for an error of the other."""
        failed: EvaluationError | None = None
        for side in node.args:
            try:
                if self._truth(side) is deciding:
                    return deciding
            except CostError:
                raise
            except EvaluationError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return not deciding

    def _truth(self, node: Node) -> bool:
        value = self.value(node)
        if not isinstance(value, bool):
            raise EvaluationError(node.at, f"{_described(node)} is {_a(value)}, not a truth value")
        return value

    def _item(self, node: Node, owner_node: Node, owner: Mapping[str, Any], name: str) -> Any:
        if name not in owner:
            # All names are looked through to tell which there are; a macro may fail so for each of its items.
            self._meter.step(_STEPS_A_MESSAGE + len(owner) // _NAMES_A_STEP)
            raise EvaluationError(node.at, missing(_described(owner_node), name, owner))
        return self._inside(owner, owner[name])

    def _inside(self, owner: Any, value: Any) -> Any:
        """Return what is in a list or map as it is seen; what the expression has made is not cut once more."""
        return value if isinstance(owner, (Made, MadeMap)) else seen(value, self._longest)

    def _all_inside(self, items: list[Any]) -> list[Any]:
        if isinstance(items, Made):
            return items
        self._meter.step(len(items))
        return Made(seen(item, self._longest) for item in items)

    def success(self, _: Call) -> bool:
        return self._context.outcome is Outcome.SUCCESS

    def failure(self, _: Call) -> bool:
        return self._context.outcome is Outcome.FAILURE

    def cancelled(self, _: Call) -> bool:
        return self._context.outcome is Outcome.CANCELLED

    def always(self, _: Call) -> bool:
        return True


_EVALUATORS: dict[type[Node], Callable[[_Evaluation, Any], Any]] = {
    Const: _Evaluation.const,
    Ident: _Evaluation.ident,
    Select: _Evaluation.select,
    Call: _Evaluation.call,
    ListOf: _Evaluation.list_of,
    MapOf: _Evaluation.map_of,
    Fold: _Evaluation.fold,
}

_TAKE_ITEMS = frozenset({"join", "_+_"})

_SPECIAL: dict[str, Callable[[_Evaluation, Call], Any]] = {
    "_&&_": _Evaluation.both,
    "_||_": _Evaluation.any,
    "_?_:_": _Evaluation.choice,
    "_==_": _Evaluation.equals,
    "_!=_": _Evaluation.differs,
    "@in": _Evaluation.contained,
    "_[_]": _Evaluation.index,
    "_+_": _Evaluation.add,
    "@not_strictly_false": _Evaluation.not_strictly_false,
    "success": _Evaluation.success,
    "failure": _Evaluation.failure,
    "cancelled": _Evaluation.cancelled,
    "always": _Evaluation.always,
}


def _described(node: Node) -> str:
    """Return how a part of the expression is called in a message."""
    match node:
        case Ident(name=name) if not name.startswith("@"):
            return name
        case Select(operand=operand, name=name, test=False):
            return f"{_described(operand)}.{name}"
        case Call(function="_[_]", args=(operand, Const(value=value))):
            return f'{_described(operand)}["{value}"]' if isinstance(value, str) else f"{_described(operand)}[{value}]"
    return "this"


def _a(value: Any) -> str:
    return type_name(kind(value))
