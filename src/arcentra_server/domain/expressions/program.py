"""Compile an expression: the CEL library parses it and checks its types, the guard holds it to its limits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

from cel_expr_python import cel
from cel_expr_python.ext import ext_strings

from arcentra_server.domain.expressions import syntax
from arcentra_server.domain.expressions.complaints import FUNCTIONS, complaints
from arcentra_server.domain.expressions.errors import Problem
from arcentra_server.domain.expressions.guard import OPERATORS, problems_of
from arcentra_server.domain.expressions.names import STATUS_FUNCTIONS
from arcentra_server.domain.expressions.references import Reference, is_plain, plain, references
from arcentra_server.domain.expressions.syntax import Call, Node, walk

LONGEST_EXPRESSION = 1024
COMPILED = 4096
"""How many expressions are kept compiled; each takes some KiB."""

_OF_STRINGS = frozenset({"lowerAscii", "upperAscii", "trim", "replace", "split", "join", "substring", "indexOf"})


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled expression; with `problems` it cannot be evaluated, and has no tree.

    `type`: what it is known to give, such as `bool`, or `dyn`. `is_plain`: it only names a value, and calculates nothing.
    """

    source: str
    tree: Node | None
    type: str
    problems: tuple[Problem, ...] = ()
    references: tuple[Reference, ...] = ()
    calls: frozenset[str] = frozenset()
    is_plain: bool = False


@lru_cache(maxsize=COMPILED)
def compiled(source: str) -> Program:
    """Compile an expression; what is wrong with it, apart from the names of one place, is in the answer."""
    simple = plain(source)
    if simple is not None:
        tree, type_ = simple
        return Program(source, tree, type_, (), tuple(references(tree)), is_plain=True)
    problem = _unfit(source)
    if problem is not None:
        return Program(source, None, "", (problem,))
    try:
        checked = _environment().compile(source)
        tree = syntax.read(checked.serialize(), source)
    except RuntimeError as error:
        return Program(source, None, "", tuple(complaints(source, str(error))))
    except syntax.Unsupported as error:
        return Program(source, None, "", (Problem(error.at, str(error)),))
    nodes = walk(tree)
    problems = problems_of(nodes)
    if problems:
        return Program(source, None, "", tuple(problems))
    calls = frozenset(node.function for node in nodes if isinstance(node, Call))
    type_ = checked.return_type().name().partition("<")[0].lower()
    return Program(source, tree, type_, (), tuple(references(tree)), calls, is_plain(tree))


def _unfit(source: str) -> Problem | None:
    """Return why an expression is not even parsed."""
    try:
        size = len(source.encode())
    except UnicodeEncodeError as error:
        return Problem(error.start, "half of a surrogate pair is no character")
    if size > LONGEST_EXPRESSION:
        return Problem(0, f"{size} bytes long, more than {LONGEST_EXPRESSION}")
    return None if source.strip() else Problem(0, "an expression is missing")


@cache
def _environment() -> cel.Env:
    functions = [name for name in (*OPERATORS, *FUNCTIONS) if name not in _OF_STRINGS]
    config = cel.NewEnvConfigFromYaml(
        "stdlib:\n  include_functions:\n" + "".join(f'    - name: "{name}"\n' for name in functions)
    )
    types = cel.Type
    texts, values = types.Map(types.STRING, types.STRING), types.Map(types.STRING, types.DYN)
    # `secrets` is no variable: the only form that it may have is taken out before anything is compiled.
    return cel.NewEnv(
        config=config,
        variables={
            **dict.fromkeys(("variables", "env", "run", "job", "step"), texts),
            **dict.fromkeys(("needs", "steps", "matrix", "event"), values),
            **dict.fromkeys(("branch", "commit"), types.STRING),
        },
        extensions=[ext_strings.ExtStrings()],
        functions=[
            cel.FunctionDecl(name, [cel.Overload(name, types.BOOL, [], is_member=False)]) for name in STATUS_FUNCTIONS
        ],
    )
