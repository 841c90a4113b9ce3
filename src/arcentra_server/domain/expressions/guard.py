"""What a well-typed expression may still not be: too large, or something that the types of the library leave open.

The guard is as it is so that an author of a pipeline cannot stop the server. What is left of the cost is bounded when an
expression is evaluated, see `evaluate`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from cel_expr_python import cel

from arcentra_server.domain.expressions.complaints import FUNCTIONS
from arcentra_server.domain.expressions.errors import Problem, quoted
from arcentra_server.domain.expressions.names import RESULTS, STATUS_FUNCTIONS
from arcentra_server.domain.expressions.references import ROOTS, reference
from arcentra_server.domain.expressions.syntax import Call, Const, Fold, Ident, ListOf, MapOf, Node, walk

MOST_NODES = 100
MOST_MACROS = 3
LONGEST_PATTERN = 256
LARGEST_REPETITION = 100
OPERATORS = (
    "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "_+_", "_-_", "_*_", "_/_", "_%_", "-_", "!_", "_&&_", "_||_", "_?_:_",
    "_[_]", "@in", "@not_strictly_false",
)  # fmt: skip

_KNOWN = frozenset((*FUNCTIONS, *OPERATORS, *STATUS_FUNCTIONS))
_COMPARED = frozenset({"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "_+_", "@in"})
_NUMBERS = frozenset({"int", "double", "size", "indexOf"})
_MACROS_ARE = "all, exists, exists_one, map and filter are macros"
_REPETITION = re.compile(r"\{(\d*)(?:,(\d*))?\}")


def problems_of(nodes: list[Node]) -> list[Problem]:
    """Return what is wrong with an expression that the library has found to be well-typed, given all its parts."""
    found = list(_too_large(nodes)) or [problem for node in nodes for problem in _mistakes(node)]
    if not found:
        # A name that is neither a root nor one of a macro is the name of a type, which is no value here.
        known = {
            *ROOTS,
            *(name for node in nodes if isinstance(node, Fold) for name in (node.variable, node.accumulator)),
        }
        found = [
            Problem(node.at, f"undeclared reference to {quoted(node.name)}")
            for node in nodes
            if isinstance(node, Ident) and node.name not in known
        ]
    return sorted(found, key=lambda problem: problem.at)


def matches(text: str, pattern: str) -> bool:
    """Answer whether a checked pattern is found in a text: RE2, in linear time."""
    found: bool = _matcher().eval(data={"s": text, "p": pattern}).value()
    return found


def repetition(pattern: str) -> int:
    """Return how many times a pattern repeats a part of itself at most, by counts such as {2,5}."""
    times = 1
    for least, most in _REPETITION.findall(pattern):
        times *= max(int(least or 0), int(most or 0), 1)
    return times


@cache
def _matcher() -> cel.Expression:
    return cel.NewEnv(variables={"s": cel.Type.STRING, "p": cel.Type.STRING}).compile("s.matches(p)")


def _too_large(nodes: list[Node]) -> Iterator[Problem]:
    if len(nodes) > MOST_NODES:
        yield Problem(0, f"{len(nodes)} parts, more than {MOST_NODES}; a macro such as exists counts for ten")
    macros = sorted((node for node in nodes if isinstance(node, Fold)), key=lambda node: node.at)
    if len(macros) > MOST_MACROS:
        yield Problem(macros[MOST_MACROS].at, f"{len(macros)} macros, more than {MOST_MACROS}: {_MACROS_ARE}")
    for macro in macros:
        if any(isinstance(node, Fold) for part in (macro.condition, macro.step) for node in walk(part)):
            yield Problem(macro.at, f"a macro in a macro: {_MACROS_ARE}")
            return


def _mistakes(node: Node) -> Iterator[Problem]:
    match node:
        case MapOf(entries=entries):
            for key, _ in entries:
                if not isinstance(key, Const) or not isinstance(key.value, str):
                    yield Problem(key.at, "names in { } must be texts in quotes")
        case Call(function=function) if function not in _KNOWN:
            yield Problem(max(0, node.at - len(function)), f"there is no function {quoted(function)}")
        case Call(function="matches", args=(_, pattern)):
            if not isinstance(pattern, Const) or not isinstance(pattern.value, str):
                yield Problem(pattern.at, "the pattern of matches must be a text in quotes")
            elif message := _pattern_problem(pattern.value):
                yield Problem(pattern.at, message)
        case Call(function=function, args=(one, other)) if function in _COMPARED:
            yield from _compared(function, one, other)
            yield from _compared(function, other, one)


def _pattern_problem(pattern: str) -> str | None:
    if len(pattern) > LONGEST_PATTERN:
        return f"the pattern is longer than {LONGEST_PATTERN} characters"
    if re.search(r"\\[pP]", pattern):
        return r"\p is not supported in patterns"
    if repetition(pattern) > LARGEST_REPETITION:
        return f"the pattern repeats more than {LARGEST_REPETITION} times"
    said = _matcher().eval(data={"s": "", "p": pattern})
    return None if said.type() == cel.Type.BOOL else str(said.value()).partition(": ")[2]


def _compared(function: str, one: Node, other: Node) -> Iterator[Problem]:
    """Yield a problem for a result or an output, always a text, beside what is no text, or no result."""
    named = reference(one)
    if named is None or not (named.is_result or named.is_output):
        return
    for value in other.items if isinstance(other, ListOf) else (other,):
        match value:
            case Const(value=bool() | int() | float()):
                yield Problem(value.at, "results and outputs are texts: write it in quotes, or use int(...)")
            case Call(function=called) if called in _NUMBERS:
                yield Problem(value.at, "results and outputs are texts: use int(...) for both sides")
            case Const(value=str() as text) if named.is_result and function != "_+_" and text not in RESULTS:
                yield Problem(value.at, f"there is no such result; results are {', '.join(RESULTS)}")
