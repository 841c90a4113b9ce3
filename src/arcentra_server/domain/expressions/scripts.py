"""Expressions in scripts: the value travels as an environment variable, and the script gets a reference to it.

A value never becomes a part of a script's text, whatever it consists of: `${{ event.title }}` becomes
`${ARCENTRA_EXPR_1}`. That works only where a POSIX shell reads the text.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from arcentra_server.domain.expressions.code_arguments import running_program
from arcentra_server.domain.expressions.errors import ExpressionError, quoted
from arcentra_server.domain.expressions.shell_quotes import HOLE, Spot, spots
from arcentra_server.domain.expressions.texts import Embedded, embedded, holds_expression, is_template, parts, roots
from arcentra_server.domain.expressions.values import without_nul

EXPRESSION_VARIABLE = "ARCENTRA_EXPR_"
SCRIPT_ARGS = ("script", "command")

_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "busybox"})
_INSTEAD = {Spot.SINGLE_QUOTES: "use double quotes", Spot.HERE_DOCUMENT: "take off the quotes"}
_NOT_A_SHELL = (
    "`${{ }}` in the script of a program that is no POSIX shell would become a part of its text: "
    "pass it by `env` and read the environment variable"
)
_CODE_ARGUMENT = (
    "`${{{{ }}}}` could become a part of a program's text, or an option, behind {}: "
    "use `script`, or pass it by `env` and read the variable"
)


def scripts_of(uses: str, args: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the arguments of a step that a shell, or another program, reads as program text."""
    if uses.partition("@")[0] != "shell":
        return ()
    return tuple(name for name in SCRIPT_ARGS if name in args and is_template(args[name]))


def script_problem(name: str, args: Mapping[str, Any]) -> str | None:
    """Return why the expressions of a script cannot be passed by environment variables, None if they can."""
    value = args[name]
    if isinstance(value, list):
        program = running_program([word if isinstance(word, str) else "" for word in value])
        return None if program is None else _CODE_ARGUMENT.format(quoted(program))
    if name == "script" and holds_expression(value) and not _is_posix_shell(args.get("shell", "")):
        return _NOT_A_SHELL
    return None


def bound(script: str, variable: Callable[[Embedded], str]) -> str:
    """Return a script with references in the place of its expressions; `variable` gives each a name.

    Raises:
        ExpressionError: a `${{` is not closed.
    """
    return "".join(without_nul(part) if isinstance(part, str) else f"${{{variable(part)}}}" for part in parts(script))


def script_warnings(script: str) -> Iterator[str]:
    """Yield what may not do what its author means: references that the shell does not replace, data of outsiders."""
    try:
        found = list(parts(script))
    except ExpressionError:
        return
    holes = [part for part in found if isinstance(part, Embedded)]
    skeleton = "".join(part if isinstance(part, str) else HOLE for part in found)
    for part, spot in zip(holes, spots(skeleton), strict=True):
        shown = f"${{{{ {part.source} }}}}"
        if spot is Spot.ARITHMETIC:
            yield f"`{shown}` stands in (( )), where the shell runs commands that a value holds: check the value first"
        elif spot is not Spot.REPLACED:
            yield f"`{shown}` stands in {spot}, where the shell does not replace it: {_INSTEAD[spot]}"
    if outside := _of_outsiders(holes):
        yield f"{outside}: people outside write that; keep it in double quotes, and away from eval and other shells"


def arguments_warnings(argv: Sequence[Any]) -> Iterator[str]:
    """Yield what may not do what its author means in a list of arguments: data of outsiders in it."""
    if outside := _of_outsiders(embedded(argv)):
        yield (
            f"{outside}: people outside write that; a program may take it for an option, or run it: "
            "use `script`, and keep it in double quotes"
        )


def _of_outsiders(holes: Iterable[Embedded]) -> str:
    """Return the expressions that use what came with an event, as a message shows them."""
    sources = [part.source for part in holes if part.secret is None and "event" in roots(part.source)]
    return ", ".join(f"`${{{{ {source} }}}}`" for source in dict.fromkeys(sources))


def _is_posix_shell(shell: Any) -> bool:
    """Answer whether a command line starts a POSIX shell; none is given: the agent takes bash or sh."""
    if not isinstance(shell, str) or holds_expression(shell):
        return False
    try:
        words = shlex.split(shell)
    except ValueError:
        return False
    names = [word.rpartition("/")[2] for word in words]
    if names[:1] == ["env"]:
        names = names[1:]
    if names[:1] == ["busybox"]:
        return names[1:2] in (["sh"], ["ash"])
    return not names or names[0] in _SHELLS
