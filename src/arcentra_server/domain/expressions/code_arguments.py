"""Lists of arguments: which of them a program may read as its text, or as an option that brings text with it.

The rule is made to be safe before it is fine. Behind a program that runs texts, wherever in the list it stands, an
argument may hold an expression only where it is plain that it can be nothing but an argument: behind the file or the text
that the program runs, which must be plain itself, with nothing but well-known options before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from arcentra_server.domain.expressions.texts import OPEN

SHELLS = ("sh", "bash", "rbash", "dash", "ash", "zsh", "ksh", "rksh", "mksh", "lksh", "yash")
PYTHONS = ("python", "pypy")
INTERPRETERS = (
    "perl", "ruby", "node", "nodejs", "bun", "php", "lua", "luajit", "fish", "Rscript", "tclsh", "expect", "guile", "julia",
    "elixir", "groovy", "awk", "gawk", "mawk", "nawk", "osascript", "csh", "tcsh", "elvish", "nu", "xonsh",
)  # fmt: skip
"""They look for options behind their text too; only behind the file they run, as the first argument, they do not."""

NEVER = (
    "sed", "gsed", "ssh", "su", "sudoedit", "runuser", "eval", "watch", "flock", "parallel", "pwsh", "powershell",
)  # fmt: skip
"""They take text anywhere, or make one of all their arguments."""

_KINDS = {
    **dict.fromkeys(SHELLS, "shell"),
    **dict.fromkeys(PYTHONS, "python"),
    **{name.lower(): "interpreter" for name in INTERPRETERS},
    **dict.fromkeys(NEVER, "never"),
}
_NAME = re.compile(r"([a-z]+)(?:-static)?(?:[-_.]?v?[0-9].*)?(?:\.exe)?")
_SHELL_OPTIONS = re.compile(r"[-+][abcefhiklmnpruvxBCEHP]+")
_SHELL_NAMED_OPTION = re.compile(r"[-+][abcefhiklmnpruvxBCEHP]*o")
_OPTION_NAME = re.compile(r"[a-z]+")
_PYTHON_OPTIONS = re.compile(r"-[bBdEiIOPqRsSuvVx]+")
_PYTHON_VALUE = re.compile(r"-[bBdEiIOPqRsSuvVx]*[WX]")
_PYTHON_TEXT = re.compile(r"-[bBdEiIOPqRsSuvVx]*[cm]")
_ANY_SHELL_TEXT = re.compile(r"-[a-z]*c")
_NEVER_WITH = {"env": re.compile(r"-[iv0]*S.*|--s(?:p.*|=.*)?"), "cmd": re.compile(r"/.*")}
"""Programs that take text only with an option: `env -S` makes words of it, `cmd /c` runs it."""


def running_program(words: Sequence[str]) -> str | None:
    """Return the program that may read an expression among its arguments as text or as an option, None for none.

    Args:
        words: The list, with its `${{ }}`.
    """
    place = 0
    while place < len(words):
        kind, name = _kind(words, place)
        free = _first_argument(kind, words, place + 1)
        if any(OPEN in word for word in words[place + 1 : free]):
            return name
        place = free
    return None


def _kind(words: Sequence[str], place: int) -> tuple[str, str]:
    """Return how the word at a place takes its arguments, if it is a program that runs texts, and its name."""
    word = words[place]
    if OPEN in word:
        # What it will be nobody knows yet: a shell, for example, if what follows on it looks like that.
        is_value = word.startswith("-") or "=" in word.partition(OPEN)[0]
        is_shell = not is_value and any(map(_ANY_SHELL_TEXT.fullmatch, words[place + 1 : place + 2]))
        return ("interpreter" if place == 0 or is_shell else ""), word
    base = re.split(r"[/\\]", word)[-1]
    found = _NAME.fullmatch(base.lower())
    name = found.group(1) if found else ""
    if name in _NEVER_WITH:
        return ("never" if any(map(_NEVER_WITH[name].fullmatch, words[place + 1 :])) else ""), base
    return _KINDS.get(name, ""), base


def _first_argument(kind: str, words: Sequence[str], place: int) -> int:
    """Return the first place, from that behind a program on, where an argument is nothing but an argument."""
    if kind == "shell":
        return _behind_shell(words, place)
    if kind == "python":
        return _behind_python(words, place)
    if kind == "interpreter":
        return place + 1 if _is_operand(words, place) else len(words)
    return len(words) if kind == "never" else place


def _behind_shell(words: Sequence[str], place: int) -> int:
    runs_text = False
    while place < len(words):
        word, behind = words[place], words[place + 1 : place + 2]
        if _SHELL_NAMED_OPTION.fullmatch(word) and behind and _OPTION_NAME.fullmatch(behind[0]):
            runs_text |= "c" in word
            place += 2
        elif _SHELL_OPTIONS.fullmatch(word):
            runs_text |= "c" in word
            place += 1
        else:
            break
    if words[place : place + 1] == ["--"]:
        place += 1
    elif not _is_operand(words, place):
        return len(words)
    if runs_text and _is_operand(words, place + 1) and not _is_option(words, place + 2):
        # The word behind the text is `$0`, which is most often the name of a shell, but runs nothing.
        place += 1
    return min(place + 1, len(words))


def _behind_python(words: Sequence[str], place: int) -> int:
    while place < len(words):
        if _PYTHON_VALUE.fullmatch(words[place]):
            place += 2
        elif _PYTHON_TEXT.fullmatch(words[place]):
            return min(place + 2, len(words))
        elif _PYTHON_OPTIONS.fullmatch(words[place]):
            place += 1
        else:
            break
    return place + 1 if _is_operand(words, place) else len(words)


def _is_operand(words: Sequence[str], place: int) -> bool:
    """Answer whether there is a word at a place that cannot be an option."""
    return place < len(words) and words[place] != "" and not _is_option(words, place) and OPEN not in words[place]


def _is_option(words: Sequence[str], place: int) -> bool:
    return place < len(words) and words[place].startswith(("-", "+"))
