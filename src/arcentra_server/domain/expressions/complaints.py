"""What the CEL library says about an expression, as one readable line for each fault.

The library answers several lines for one fault, with a drawing, and names types and operators as its own code does.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

from arcentra_server.domain.expressions.errors import Problem, quoted
from arcentra_server.domain.expressions.names import STATUS_FUNCTIONS
from arcentra_server.domain.expressions.references import ROOTS

ONLY_ALONE = "a secret can only stand alone, as ${{ secrets.NAME }}: it cannot be part of a calculation"
FUNCTIONS = (
    "size", "contains", "startsWith", "endsWith", "matches", "int", "double", "string", "lowerAscii", "upperAscii",
    "trim", "replace", "split", "join", "substring", "indexOf",
)  # fmt: skip
MACROS = ("has", "all", "exists", "exists_one", "map", "filter")

_MOST_PROBLEMS = 5
_NO_FUNCTION = "there is no function"
_HYPHENS = re.compile(r"\b(needs|steps)\.([A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)+)")
_ENTRY = re.compile(r"^(?:[A-Z_]+: )?ERROR: <input>:(-?\d+):(-?\d+): (.*)$", re.MULTILINE)
_CODE = re.compile(r"^[A-Z_]+: |\s*\[[A-Z_]+\]\s*$")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_OVERLOAD = re.compile(r"found no matching overload for '([^']*)' applied to '\((.*)\)'")
_NOT_SELECTABLE = re.compile(r"expression of type '([^']*)' cannot be the operand of a select operation")
_NOT_A_RANGE = re.compile(r"expression of type '([^']*)' cannot be the range of a comprehension")
_SYNTAX = re.compile(
    r"Syntax error: (?:mismatched input|extraneous input|no viable alternative at input) '(.*?)'(?: |$)"
)
_TOKEN = re.compile(r"Syntax error: token recognition error at: '(.*)'?$")
_TYPE = re.compile(r"[a-z_*.A-Z]+")
_TYPES = {
    "string": "a text",
    "int": "a whole number",
    "uint": "an unsigned number",
    "double": "a number with a fraction",
    "bool": "a truth value",
    "null": "null",
    "null_type": "null",
    "list": "a list",
    "map": "a map",
    "dyn": "a value",
    "bytes": "bytes",
}
_OPERATORS = {"@in": "in", "_?_:_": "? :", "_[_]": "[ ]"}


def complaints(source: str, text: str) -> list[Problem]:
    """Return what is wrong with an expression that the library refused; `text` is what it said."""
    if text.startswith("CANCELLED") or "ERROR: <input>:-1:-1: Exceeded max recursion depth" in text:
        return [Problem(0, "nested too deeply")]
    problems: dict[str, Problem] = {}
    for line, column, said in _ENTRY.findall(text):
        found = _problem(source, _offset(source, int(line), int(column)), said)
        problems.setdefault(found.message, found)
        if said.startswith("Syntax error"):
            # What follows on the first one is only its consequence.
            break
    if not problems:
        return [Problem(0, _CODE.sub("", _CODE.sub("", text.partition("\n")[0])))]
    # A type that is in error makes everything around it an error too, and so does a macro that there is not.
    telling = [one for one in problems.values() if "*error*" not in one.message]
    functions = [one for one in telling if one.message.startswith(_NO_FUNCTION)]
    return (functions or telling or list(problems.values()))[:_MOST_PROBLEMS]


def type_name(name: str) -> str:
    """Return the name of a type for people: `string` is a text."""
    found = _TYPE.match(name)
    return _TYPES.get(found.group() if found else name, name)


def not_applicable(function: str, types: list[str]) -> str:
    """Return the message for an operator or a function and what it cannot be applied to."""
    shown = [type_name(name) for name in types]
    what = " and ".join(shown) if len(shown) < 3 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    hint = ""
    if set(types) == {"int", "double"}:
        hint = "; write 1.0 for 1, or double(x)"
    elif "string" in types and {"int", "double"} & set(types) and function.startswith("_"):
        hint = "; write the number in quotes, or use int(x) or string(x)"
    return f"{quoted(operator(function))} cannot be applied to {what or 'nothing'}{hint}"


def operator(function: str) -> str:
    """Return an operator as people write it, and a function as it is."""
    return _OPERATORS.get(function) or (function.strip("_") if "_" in function[:1] + function[-1:] else function)


def _problem(source: str, at: int, said: str) -> Problem:
    if found := _UNDECLARED.search(said):
        return _undeclared(source, at, found.group(1))
    if said.startswith("Syntax error"):
        return Problem(at, _syntax(said))
    return Problem(at, _types_said(said))


def _types_said(said: str) -> str:
    """Return the message for types that do not go together, and for everything else as the library says it."""
    if found := _OVERLOAD.search(said):
        return not_applicable(found.group(1), _split_types(found.group(2)))
    if found := _NOT_SELECTABLE.search(said):
        return f"{type_name(found.group(1))} has no fields"
    if found := _NOT_A_RANGE.search(said):
        return f"{type_name(found.group(1))} is nothing to go through, that is a list or a map"
    if "reserved identifier" in said:
        return f"{quoted(said.rpartition(' ')[2])} is a reserved word"
    return said


def _undeclared(source: str, at: int, name: str) -> Problem:
    """Return the problem of a name that there is not: the library points behind it, this points at it."""
    root = name.partition(".")[0]
    found = source.rfind(root, 0, at + len(root))
    start = found if found >= 0 else at
    if root == "secrets":
        return Problem(start, ONLY_ALONE)
    for hyphens in _HYPHENS.finditer(source):
        if hyphens.start() <= start < hyphens.end():
            brackets = f'{hyphens.group(1)}["{hyphens.group(2)}"]'
            return Problem(hyphens.start(), f"a name with a - needs brackets and quotes: {brackets}")
    after = source[at : at + 1]
    if after == "(" and not source.startswith(root, at):
        known = (*FUNCTIONS, *STATUS_FUNCTIONS, *MACROS)
        return Problem(start, f"{_NO_FUNCTION} {quoted(root)}{_meant(root, known)}")
    return Problem(start, f"undeclared reference to {quoted(root)}{_meant(root, ROOTS)}")


def _meant(name: str, known: tuple[str, ...]) -> str:
    close = get_close_matches(name, known, n=1)
    return f" (did you mean {quoted(close[0])}?)" if close else ""


def _syntax(said: str) -> str:
    if "'<EOF>'" in said:
        return "syntax error: it ends too early"
    if found := _TOKEN.search(said):
        token = found.group(1).removesuffix("'")
        if token[:1] in {'"', "'"}:
            return "syntax error: a text in quotes is not closed, or holds an escape that there is not"
        hint = "; compare with ==" if token.strip() == "=" else ""
        return f"syntax error at {quoted(token.strip())}{hint}"
    if found := _SYNTAX.search(said):
        return f"syntax error at {quoted(found.group(1))}"
    return said[:1].lower() + said[1:]


def _offset(source: str, line: int, column: int) -> int:
    """Return the place of a line and column, both from 1; -1 is the beginning."""
    start = 0
    for _ in range(line - 1):
        start = source.find("\n", start) + 1
    return max(0, min(start + column - 1, len(source)))


def _split_types(text: str) -> list[str]:
    """Split `map(string, int), int` at the commas that stand in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]
