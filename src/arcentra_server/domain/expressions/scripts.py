"""Expressions in scripts: the value travels as an environment variable, and the script gets a reference to it.

A value never becomes a part of a script's text, whatever it consists of: `${{ event.title }}` becomes
`${ARCENTRA_EXPR_1}`. That works only where a POSIX shell reads the text.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from arcentra_server.domain.expressions.errors import ExpressionError
from arcentra_server.domain.expressions.shell_quotes import HOLE, Spot, spots
from arcentra_server.domain.expressions.texts import OPEN, Embedded, is_template, parts, roots
from arcentra_server.domain.expressions.values import without_nul

EXPRESSION_VARIABLE = "ARCENTRA_EXPR_"
SCRIPT_ARGS = ("script", "command")

_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "busybox"})
_CODE_FLAG = re.compile(r"-[A-Za-z]*[ceErp]|--eval|--print")
_RUNS_CODE = re.compile(r"(?:ba|da|a|z|k|mk)?sh|busybox|python[0-9.]*|perl|ruby|node|php|pwsh|powershell")
_INSTEAD = {Spot.SINGLE_QUOTES: "use double quotes", Spot.HERE_DOCUMENT: "take off the quotes"}
_NOT_A_SHELL = (
    "`${{ }}` in the script of a program that is no POSIX shell would become a part of its text: "
    "pass it by `env` and read the environment variable"
)
_CODE_ARGUMENT = (
    "`${{ }}` would become a part of a program's text: use `script`, or pass it by `env` and read the variable"
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
        return _CODE_ARGUMENT if _has_code_argument(value) else None
    if name == "script" and not _is_posix_shell(args.get("shell", "")):
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
    outside = [part.source for part in holes if part.secret is None and "event" in roots(part.source)]
    if outside:
        shown = ", ".join(f"`${{{{ {source} }}}}`" for source in dict.fromkeys(outside))
        yield f"{shown}: people outside write that; keep it in double quotes, and away from eval and other shells"


def _is_posix_shell(shell: Any) -> bool:
    """Answer whether a command line starts a POSIX shell; none is given: the agent takes bash or sh."""
    if not isinstance(shell, str) or OPEN in shell:
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


def _has_code_argument(argv: Sequence[Any]) -> bool:
    """Answer whether an expression stands in the program text of an argument list, such as behind `sh -c`."""
    words = [word if isinstance(word, str) else "" for word in argv]
    runs_code = any(_RUNS_CODE.fullmatch(word.rpartition("/")[2]) for word in words)
    return runs_code and any(OPEN in text and _CODE_FLAG.fullmatch(flag) for flag, text in pairwise(words))
