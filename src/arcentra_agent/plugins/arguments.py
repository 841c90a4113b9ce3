"""Reading the `args` of a step: which argument is wrong and what was expected, in one sentence."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from arcentra_agent.plugins.base import Args

_GLOB = re.compile(r"[*?\[]")


class ArgumentError(ValueError):
    """An action or argument is wrong; the text is for the author of the pipeline."""


def check_known(args: Args, known: Iterable[str]) -> None:
    """Refuse arguments that nothing reads, a misspelt name above all."""
    names = sorted(known)
    for name in args:
        if name not in names:
            raise ArgumentError(f"args.{name}: unknown argument; known are {', '.join(names)}")


def text(args: Args, name: str, default: str = "") -> str:
    """Return a text argument; an absent one is the default."""
    value = args.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise ArgumentError(f"args.{name}: expected a text, got {describe(value)}")
    if "\0" in value:
        raise ArgumentError(f"args.{name}: contains a NUL character")
    return value


def line(args: Args, name: str) -> str:
    """Return a text of one line. A line break at its end is dropped: secrets that came from a file or a pipe have one."""
    value = text(args, name).rstrip("\r\n")
    if "\n" in value or "\r" in value:
        raise ArgumentError(f"args.{name}: must not hold a line break")
    return value


def required_text(args: Args, name: str) -> str:
    """Return a text argument that must be there and not blank."""
    value = text(args, name)
    if not value.strip():
        raise ArgumentError(
            f"args.{name}: expected a text, got {'nothing' if args.get(name) is None else 'a blank one'}"
        )
    return value


def git_name(args: Args, name: str, *, required: bool = False) -> str:
    """Return a text that goes to git as a name: never one git would read as an option."""
    value = required_text(args, name) if required else text(args, name)
    if value.startswith("-"):
        raise ArgumentError(f"args.{name}: must not begin with '-', got {value[:64]!r}")
    return value


def whole_number(args: Args, name: str, default: int = 0) -> int:
    """Return a whole number that is not negative (numbers on the wire are floating)."""
    value = args.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer() or value < 0:
        raise ArgumentError(f"args.{name}: expected a whole number of 0 or more, got {describe(value)}")
    return int(value)


def flag(args: Args, name: str) -> bool:
    """Return a truth value; an absent one is false."""
    value = args.get(name, False)
    if not isinstance(value, bool):
        raise ArgumentError(f"args.{name}: expected true or false, got {describe(value)}")
    return value


def texts(args: Args, name: str) -> list[str]:
    """Return a list of texts that must be there, none of them blank; a single text is a list of one."""
    value = args.get(name)
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not items:
        raise ArgumentError(f"args.{name}: expected a list of texts, got {describe(value)}")
    for item in items:
        if not isinstance(item, str) or not item.strip() or "\0" in item:
            raise ArgumentError(f"args.{name}: expected a list of texts, none of them blank")
    return items


def inside(args: Args, name: str, root: Path) -> Path:
    """Return a directory under `root` named by a relative path; absent means `root` itself."""
    return below(root, text(args, name) or ".", name)


def below(root: Path, value: str, name: str) -> Path:
    """Return the path under `root` that the argument `name` has; links are not looked at."""
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        raise ArgumentError(f"args.{name}: expected a path inside the workspace, got {value[:128]!r}")
    return root / path


def matching(root: Path, value: str, name: str) -> list[Path]:
    """Return the path under `root`, or all that a glob matches, in the order of their names; none is a fault."""
    path = below(root, value, name)
    if not _GLOB.search(value):
        return [path]
    try:
        found = sorted(root.glob(value))
    except ValueError as error:
        raise ArgumentError(f"args.{name}: {value[:128]!r} is no glob: {error}") from error
    if not found:
        raise ArgumentError(f"args.{name}: nothing in the workspace matches {value[:128]!r}")
    return found


def resolved(path: Path, root: Path, name: str) -> Path:
    """Return an existing path under `root` without links in it; one that leads elsewhere is refused."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ArgumentError(f"args.{name}: there is no {path.relative_to(root)} in the workspace") from error
    if not real.is_relative_to(root.resolve()):
        raise ArgumentError(f"args.{name}: {path.relative_to(root)} leads out of the workspace")
    return real


def describe(value: object) -> str:
    """Name a value by its kind, never by its content: it may be a secret."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return f"the number {value:g}"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object"
