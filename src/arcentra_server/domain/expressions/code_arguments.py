"""Lists of arguments: which of them a program may read as its text, or as an option that brings text with it.

The rule is made to be safe before it is fine. Behind a program that runs texts, wherever in the list it stands, an
argument may hold an expression only where it is plain that it can be nothing but an argument: behind the file or the text
that the program runs, which must be plain itself, with nothing but well-known options before it. Each word that looks
like such a program counts by itself: one that only looks like it hides no other behind it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property

from arcentra_server.domain.expressions.shell_quotes import HOLE
from arcentra_server.domain.expressions.texts import outline

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
_BEGINNING = re.compile(r"([a-z]+)(?:-static)?(?:[-_.]?v?[0-9].*|[-_.]v?)?")
_SEPARATOR = re.compile(r"[/\\]")
_SHELL_OPTIONS = re.compile(r"[-+][abcefhiklmnpruvxBCEHP]+")
_SHELL_NAMED_OPTION = re.compile(r"[-+][abcefhiklmnpruvxBCEHP]*o")
_OPTION_NAME = re.compile(r"[a-z]+")
_PYTHON_OPTIONS = re.compile(r"-[bBdEiIOPqRsSuvVx]+")
_PYTHON_VALUE = re.compile(r"-[bBdEiIOPqRsSuvVx]*[WX]")
_PYTHON_TEXT = re.compile(r"-[bBdEiIOPqRsSuvVx]*[cm]")
_ANY_SHELL_TEXT = re.compile(r"-[a-z]*c")
_NEVER_WITH = {"env": re.compile(r"-[iv0]*S.*|--s(?:p.*|=.*)?", re.DOTALL), "cmd": re.compile(r"/.*", re.DOTALL)}
"""Programs that take text only with an option: `env -S` makes words of it, `cmd /c` runs it."""

_ENV_VALUE = re.compile(r"-[iv0]*[uCaPLU]|--[uca][a-z0-9-]*")
_ASSIGNMENT = re.compile(rf"[^{HOLE}=-][^{HOLE}=]*=.*", re.DOTALL)
_INSTEAD = ("--entrypoint", "--command")
"""Options that name the program which gets the arguments behind: of docker and podman, of flatpak."""

_WORD = re.compile(r"[^\s,\"'\[\]]+")
_MOST_OPTIONS = 10_000
"""So many options of all programs of a list are looked at; behind more there may be no expression."""


def running_program(words: Sequence[str]) -> str | None:
    """Return the program that may read an expression among its arguments as text or as an option, None for none.

    Args:
        words: The list, with its `${{ }}`.
    """
    arguments = _Arguments(words)
    names = set()  # the places of `$0`: those that look like a shell, and run nothing
    for place in range(len(words)):
        if not arguments.holds_expression(place + 1, len(words)):
            return None
        if place in names:
            continue
        kind, name = arguments.kind(place)
        free, is_named = arguments.first_argument(kind, place + 1)
        if arguments.holds_expression(place + 1, free):
            return name
        if is_named:
            names.add(free - 1)
    return None


class _Arguments:
    """A list of arguments, with a hole for each expression in it."""

    def __init__(self, words: Sequence[str]) -> None:
        self._written = words
        self._words = [outline(word, HOLE) for word in words]
        self._holes = [place for place, word in enumerate(self._words) if HOLE in word]
        self._looks = 0

    def holds_expression(self, start: int, end: int) -> bool:
        """Answer whether an expression stands from one place on, before another."""
        first = bisect_left(self._holes, start)
        return first < len(self._holes) and self._holes[first] < end

    def kind(self, place: int) -> tuple[str, str]:
        """Return how the word at a place takes its arguments, if it is a program that runs texts, and its name."""
        word = self._words[place]
        if self._is_instead(place):
            return "never", self._written[place]
        base = _SEPARATOR.split(word)[-1]
        found = next(filter(None, (self._kind_of(name, place) for name in _names(base))), "")
        if HOLE not in base:
            return found, base
        # A value, not a program: `--image=${{ }}`, `V=${{ }}`.
        is_value = word.startswith("-") or "=" in word.partition(HOLE)[0]
        if not found or is_value:
            # What it will be nobody knows yet: a shell, for example, if what follows on it looks like that.
            is_shell = not is_value and _ANY_SHELL_TEXT.fullmatch(self._at(place + 1)) is not None
            found = "interpreter" if place == 0 or is_shell else ""
        return found, self._written[place]

    def first_argument(self, kind: str, place: int) -> tuple[int, bool]:
        """Return the first place, from that behind a program on, where an argument is nothing but an argument.

        With it comes whether the word before that place is `$0` and the name of a shell, so that it runs nothing.
        """
        if kind == "shell":
            return self._behind_shell(place)
        if kind == "python":
            return self._behind_python(place), False
        if kind == "interpreter":
            return place + 1 if self._is_operand(place) else len(self._words), False
        return len(self._words) if kind == "never" else place, False

    def _is_instead(self, place: int) -> bool:
        """Answer whether the word at a place names, by an option, the program that gets all arguments behind it."""
        option, is_one, program = self._words[place].partition("=")
        if not is_one:
            option, program = self._at(place - 1), self._words[place]
        if option not in _INSTEAD:
            return False
        # podman takes a list in JSON too.
        names = (name for word in _WORD.findall(program) for name in _names(_SEPARATOR.split(word)[-1]))
        is_unknown = option == "--entrypoint" and HOLE in program
        return is_unknown or any(name in _KINDS or name in _NEVER_WITH for name in names)

    def _kind_of(self, name: str, place: int) -> str:
        """Return the kind of the program of a name that stands at a place."""
        if name in _NEVER_WITH:
            is_used = self._last_of_options[name] > place
            return "never" if is_used or (name == "env" and self._env_may_split(place + 1)) else ""
        return _KINDS.get(name, "")

    @cached_property
    def _last_of_options(self) -> dict[str, int]:
        """Of each program that takes text with an option only the last place of such an option."""
        return {
            name: max((place for place, word in enumerate(self._words) if pattern.fullmatch(word)), default=-1)
            for name, pattern in _NEVER_WITH.items()
        }

    def _env_may_split(self, place: int) -> bool:
        """Answer whether an expression stands where `env` would take one that begins with `-S` for this option."""
        while self._may_look():
            word = self._at(place)
            if _ENV_VALUE.fullmatch(word):
                place += 2
            elif _ASSIGNMENT.fullmatch(word) or (word.startswith("-") and HOLE not in word):
                place += 1
            else:
                return HOLE in word
        return True

    def _behind_shell(self, place: int) -> tuple[int, bool]:
        runs_text = False
        while self._may_look():
            word = self._at(place)
            if _SHELL_NAMED_OPTION.fullmatch(word) and _OPTION_NAME.fullmatch(self._at(place + 1)):
                runs_text |= "c" in word
                place += 2
            elif _SHELL_OPTIONS.fullmatch(word):
                runs_text |= "c" in word
                place += 1
            else:
                break
        if self._at(place) == "--":
            place += 1
        elif not self._is_operand(place):
            return len(self._words), False
        place += 1
        if runs_text and self._is_operand(place) and not self._is_option(place + 1) and self.kind(place)[0] == "shell":
            return place + 1, True
        return min(place, len(self._words)), False

    def _behind_python(self, place: int) -> int:
        while self._may_look():
            word = self._at(place)
            if _PYTHON_VALUE.fullmatch(word):
                place += 2
            elif _PYTHON_TEXT.fullmatch(word):
                return min(place + 2, len(self._words))
            elif _PYTHON_OPTIONS.fullmatch(word):
                place += 1
            else:
                break
        return place + 1 if self._is_operand(place) else len(self._words)

    def _may_look(self) -> bool:
        self._looks += 1
        return self._looks <= _MOST_OPTIONS

    def _at(self, place: int) -> str:
        """Return the word at a place, an empty one where there is none."""
        return self._words[place] if 0 <= place < len(self._words) else ""

    def _is_operand(self, place: int) -> bool:
        """Answer whether there is a word at a place that cannot be an option."""
        word = self._at(place)
        return word != "" and not self._is_option(place) and HOLE not in word

    def _is_option(self, place: int) -> bool:
        return self._at(place).startswith(("-", "+"))


def _names(base: str) -> list[str]:
    """Return the names, without a version, of the programs that a word without its folder may be.

    Of one that is an expression in part that is what its beginning and its end say.
    """
    if HOLE not in base:
        return [_name(_NAME, base)]
    return [_name(_BEGINNING, base.partition(HOLE)[0]), _name(_NAME, base.rpartition(HOLE)[2])]


def _name(pattern: re.Pattern[str], base: str) -> str:
    found = pattern.fullmatch(base.lower())
    return found.group(1) if found else ""
