"""Which names an expression uses: a root such as `needs`, with the names that follow on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from arcentra_server.domain.expressions.syntax import Call, Const, Fold, Ident, Node, Select, children

ROOTS = (
    "variables", "env", "run", "job", "step", "needs", "steps", "secrets", "event", "matrix", "branch", "commit",
)  # fmt: skip

# How many names follow on a root in a plain reference; more are left to the library, which knows the types.
_DEPTHS = {
    "variables": (1, 1), "env": (1, 1), "run": (1, 1), "job": (1, 1), "step": (1, 1), "matrix": (1, 1),
    "needs": (2, 3), "steps": (2, 3), "event": (1, 9), "branch": (0, 0), "commit": (0, 0),
}  # fmt: skip
_TEXTS = frozenset({"variables", "env", "run", "job", "step", "branch", "commit"})
_PLAIN = re.compile(r"[a-z]+(?:\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)
_RESERVED = frozenset(
    {
        "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop",
        "namespace", "null", "package", "return", "true", "var", "void", "while",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One name on the way from a root to a value, and where it stands."""

    at: int
    name: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A use of a root, with the names that follow on it as far as they are written out."""

    root: str
    at: int
    path: tuple[Step, ...]

    @property
    def is_result(self) -> bool:
        """Whether it is the result of a job or a step."""
        return self.root in {"needs", "steps"} and len(self.path) == 2 and self.path[1].name == "result"

    @property
    def is_output(self) -> bool:
        """Whether it is an output of a job or a step."""
        return self.root in {"needs", "steps"} and len(self.path) == 3 and self.path[1].name == "outputs"


def plain(source: str) -> tuple[Node, str] | None:
    """Return the tree and the type of an expression that is names and dots, as the library would; None for others.

    Most expressions are, and reading them takes a hundredth of what the library takes.
    """
    if not _PLAIN.fullmatch(source):
        return None
    names = source.split(".")
    least, most = _DEPTHS.get(names[0], (1, 0))
    if not least < len(names) <= most + 1 or not _RESERVED.isdisjoint(names):
        return None
    tree: Node = Ident(0, names[0])
    at = len(names[0]) + 1
    for name in names[1:]:
        tree = Select(at, tree, name, test=False)
        at += len(name) + 1
    return tree, "string" if names[0] in _TEXTS else "dyn"


def reference(node: Node, bound: AbstractSet[str] = frozenset()) -> Reference | None:
    """Return the root that a node is, with the names that follow on it; None for everything else.

    Args:
        node: Part of an expression.
        bound: Names that macros have given to something else.
    """
    path: list[Step] = []
    while True:
        match node:
            case Select(operand=operand):
                path.append(Step(node.at, node.name))
                node = operand
            case Call(function="_[_]", args=(operand, Const(at=at, value=str() as name))):
                path.append(Step(at, name))
                node = operand
            case Ident():
                return None if node.name in bound else Reference(node.name, node.at, tuple(reversed(path)))
            case _:
                return None


def references(node: Node, bound: AbstractSet[str] = frozenset()) -> Iterator[Reference]:
    """Yield each use of a root in an expression."""
    found = reference(node, bound)
    if found is not None:
        yield found
    elif isinstance(node, Fold):
        yield from references(node.source, bound)
        inner = bound | {node.variable, node.accumulator}
        for part in (node.condition, node.step, node.result):
            yield from references(part, inner)
    else:
        for child in children(node):
            yield from references(child, bound)


def is_plain(node: Node) -> bool:
    """Answer whether an expression only names a value, and calculates nothing."""
    match node:
        case Select(operand=operand, test=False) | Call(function="_[_]", args=(operand, Const())):
            return is_plain(operand)
        case Ident():
            return True
    return False
